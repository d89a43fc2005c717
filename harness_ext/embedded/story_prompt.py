"""The wording of bAbI-style reasoning questions, shared by the tasks and by the embedded pair's training rows.

The format is that of the bAbI feedback setting (github.com/racia/research-project), in different words: a system
prompt, numbered context lines, a question, and a reply of the form `Reasoning: … / Answer: …`.
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
    """Return the user part of a question: the numbered lines of a story, then the question.

    lines: the sentences of the story without numbers, oldest first.
    question: the question, with its question mark.

    The text ends with a line break, after which the reply (`Reasoning: …`) begins.
    """
    numbered = "\n".join(f"{number} {line}" for number, line in enumerate(lines, start=1))
    return f"Here are the context sentences:\n{numbered}\n\nNow, answer the following question:\n{question}\n"
