"""CREAK, ECQA, StrategyQA and GSM8K, answered with a rationale and a final answer line."""
