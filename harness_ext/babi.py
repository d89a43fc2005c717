"""The wording of bAbI-style reasoning questions, shared by the tasks and by the embedded pair's training rows.

Format: System prompt, numbered context lines, question and `Reasoning: … / Answer: …` reply of the bAbI feedback
setting (github.com/racia/research-project), in our own words.
"""

from __future__ import annotations

INSTRUCTION = """\
You answer questions about short stories.
Think first: reason briefly, using only what the numbered lines say, and keep track of who and what is where.
Then answer in one word, or in the words of a short list joined by commas, or with directions.
Always use this form:
Reasoning: <your reasoning>
Answer: <your answer>

"""


def story_text(lines: list[str], question: str) -> str:
    """Return the user part of a question: the numbered lines of a story, then what is asked.

    `lines` are sentences without numbers, oldest first; `question` ends in a question mark. The text ends in a line
    break, where the reply (`Reasoning: …`) begins.
    """
    numbered = "\n".join(f"{number} {line}" for number, line in enumerate(lines, start=1))
    return f"Here are the context sentences:\n{numbered}\n\nNow, answer the following question:\n{question}\n"
