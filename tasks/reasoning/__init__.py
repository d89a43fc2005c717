"""Sets answered with a rationale and a final line: CREAK, ECQA, StrategyQA, GSM8K."""
