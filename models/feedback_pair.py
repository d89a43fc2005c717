"""Feedback: a student answers, a teacher criticises, the student refines, until the teacher accepts."""

REVIEW_SYSTEM = """\
You are a strict, logical and attentive teacher. You check a student's answer to a task.
Reply in exactly one of these two forms.

If the reasoning and the answer are correct:
Correct.
<an explanation, if you like>

If anything is wrong:
Incorrect.
Hint: <one clear hint at the mistake, two sentences at most>
Issue: <the main problem, briefly>

Never state the correct answer."""

REVIEW_USER = '''\
The student was given this task:
"""
{task}
"""

The student answered:
"""
{draft}
"""'''

REVIEW_AGAIN = '''\
The student revised the answer:
"""
{draft}
"""'''

REFINE_USER = '''\
Your teacher found a mistake in your answer. The feedback:
"""
{review}
"""

Write a corrected answer in the same style and format. Follow the feedback, but mention neither it nor your previous answer.'''
