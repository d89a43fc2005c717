"""The words that mark an answer, as patterns: "the final answer is …", "Answer: …", "Die Antwort ist …"."""

from __future__ import annotations

import re

from harness_ext.reading.cleaning import CLOSE, OPEN


def any_of(words: str) -> str:
    """Return words or patterns that are written with commas between them as alternatives of a regular expression."""
    return "|".join(word.strip() for word in words.split(","))


_B = r"[ \t]{0,4}"
_GAP = r"[ \t]{1,3}"
_ADJECTIVES = any_of(
    "final, correct, right, best, most, likely, appropriate, probable, plausible, short, numeric(?:al)?, only, exact,"
    "overall, complete, simplified, actual, true, end, chosen, selected, suitable, logical, accurate, possible, single,"
    "updated, revised, new, corrected, required, desired, resulting"
)
ADJECTIVES = rf"(?:(?:{_ADJECTIVES})(?:{_GAP}|_|-)){{0,4}}"
_LETTER = (
    r"(?:letter|response|output)(?=[\"' \t]{0,3}(?:is|would be|:|=)[ \t:\"'(\[]{0,6}(?-i:[A-Z])(?![\w']|[ \t][a-z]))"
)
OPTION_NOUNS = any_of("option, choice, pick, vote, selection, decision, guess")
# Words that also stand in the middle of a calculation: "the total is 20, and with the fee …".
_WEAK_NOUNS = any_of("result, value, total, amount, count, number, sum, cost, price, solution, tally")
_NOUNS = (
    rf"letter{_GAP}(?:of|for){_GAP}(?:the |my |this |your )?(?:correct |right |best |final )?(?:answer|choice|option)"
    rf"|(?:choice|option){_GAP}letter|answer|ans|{_LETTER}|{OPTION_NOUNS}|(?:{_WEAK_NOUNS})"
)
_VERBS = any_of(
    "is, are, was, were, would be, must be, should be, will be, could be, might be, may be, can only be, has to be,"
    "ought to be, be, becomes, equals, comes (?:out )?to, turns out to be, works out (?:to|as), seems to be,"
    r"appears to be, amounts to, lies in, of(?=[ \t][$€£]?\d)"
)
_NOT_VERBS = any_of(
    "isn't, is not, wasn't, can't be, cannot be, won't be, shouldn't be, couldn't be, wouldn't be, must not be"
)
_ADVERBS = any_of(
    "therefore, thus, then, clearly, simply, indeed, definitely, certainly, most, more, very, likely, probably,"
    "obviously, actually, just, now, hence, also, still, exactly, precisely, approximately, about, around, roughly,"
    "equal to, in fact, of course, only, going to be, presumably, almost, nearly, surely, undoubtedly, as follows,"
    r"given by, found to be, stated as, option, choice, letter, for(?=[ \t]\(?(?-i:[A-Z])\b)"
)
_BEHIND_NOUN = any_of(
    "choice, option, letter, number, value, here, below, statement, would, then, therefore, thus, is,"
    "to (?:the|this|your|our) (?:question|problem|puzzle|riddle|task|exercise),"
    "to (?:the )?(?:original|whole|main) (?:question|problem), for (?:the|this) (?:question|problem),"
    "in (?:total|all|dollars|cents), from the (?:options|choices|list), among (?:the|these) (?:options|choices),"
    "(?:that )?(?:i|we) (?:choose|chose|picked|pick|select|selected|get|got|give|arrive at)"
)
_TAIL = rf"(?:{_GAP}(?:{_BEHIND_NOUN}|rounded[\w \t-]{{0,40}}|(?:that|which)(?:{_GAP}\w{{1,14}}){{1,5}}?)){{0,3}}"

SENTENCE = re.compile(
    rf"(?<![\w-]){ADJECTIVES}(?P<noun>{_NOUNS})\b(?P<tail>{_TAIL})[\"']?"
    rf"(?:{_B}(?P<mark>[:=]{{1,2}}|->|→|⇒|—|–(?=[ ])|-(?=[ ])){_B}(?:is\b)?[ \t]{{0,3}}[:=]?"
    rf"|{_GAP}(?P<verb>{_VERBS})(?=n't|[^A-Za-z]|$)(?P<not>n't|{_GAP}(?:not|never|neither)\b)?"
    rf"[ \t]{{0,3}}(?P<colon>[:=]|->|→)?"
    rf"|[ \t]{{0,3}}(?P<not2>{_NOT_VERBS}))"
    rf"[ \t]{{0,3}}(?:(?:{_ADVERBS})[ \t,]{{1,3}}){{0,4}}",
    re.IGNORECASE,
)
_EUROPEAN = any_of(
    "antwort, lösung, ergebnis, respuesta, r[ée]ponse, risposta, resposta, resultado, ответ,"
    r"antwoord, svaret?, odpowied[źz], cevap, jawaban, đáp án"
)
_EUROPEAN_IS = any_of("ist, lautet, es, est, é, è, sera, ser[íi]a, sarà, —, -, это, is, är, er, jest, adalah, là")
FOREIGN = re.compile(
    r"(?:(?:答案|正确答案|最终答案|回答|答え|正解|정답|답)[ \t]{0,3}(?:选项|选择)?[ \t]{0,3}"
    r"(?:是|为|は|은|는|应为|应该是|选)?[:：]?(?<=[是为は은는选:：])"
    r"|(?:应|应该|我)?选择?(?=[ \t]?\(?(?-i:[A-J])(?![A-Za-z]))"
    r"|(?:الجواب|الإجابة|الاجابة)[ \t]{0,3}(?:الصحيحة? |النهائية? )?(?:هو|هي|:)"
    r"|(?:उत्तर|उत्तर है|উত্তর)[ \t]{0,3}[:：]?(?=[ \t]{0,3}\S)"
    rf"|\b(?:{_EUROPEAN}){_GAP}(?:(?:correct[ae]?|finale?|corr?ett?a|richtig){_GAP})?(?:{_EUROPEAN_IS})\b"
    rf"(?:{_GAP}(?:donc|also|daher|entonces|quindi|dunque|portanto|então))?"
    rf"(?:{_GAP}(?:la|le|el|die|a)(?={_GAP}\(?(?-i:[A-Z])(?!\w)))?"
    rf"|\b(?:{_EUROPEAN})[ \t]{{0,3}}(?:correct[ae]|finale?|corr?ett?a)?[ \t]{{0,3}}[:：])",
    re.IGNORECASE,
)
# The asked form, recited: "Answer: (<letter>) B".
PLACEHOLDER = re.compile(
    r"[(\[]?<(?:the |your )?[a-z][a-z _-]{1,24}>[)\]]?[ \t]{0,3}(?=\S)"
    r"|[(\[](?:the |your )?(?:letter|number|option|choice|answer)[)\]][ \t]{1,3}(?=\S)",
    re.IGNORECASE,
)
_VALUE = r"[\"'(\[$€£]{0,3}(?:-?\d[\d.,]*(?:[ \t]+[a-z]+)?|(?-i:[A-J]))[\"')\]]{0,2}[.!]*[ \t]*(?:\n|$)"
_IT_IS = r"it(?:'s|[ \t]+is|[ \t]+should[ \t]+be|[ \t]+must[ \t]+be)"
# An answer that takes back the one before it: "…, no wait, 5.", "Actually, it's C."
CORRECTED = re.compile(
    r"\b(?:(?:no|nope|wait|sorry|oops|correction|actually|scratch that|hold on|hmm|rather|i mean|i meant|make that)"
    rf"[,.:!…-]*[ \t]+){{1,4}}(?:(?:so[ \t]+)?(?:{_IT_IS}|that's|that is|make it)[ \t]+)?(?={_VALUE})"
    r"|\b(?:wait|hold on|oops|scratch that|actually|no,|hmm|let me re(?:compute|calculate|check|count|do)"
    r"|i made (?:a mistake|an error))[^\n]{0,200}?"
    rf"\b{_IT_IS}[ \t]+(?={_VALUE})",
    re.IGNORECASE,
)
# A heading alone on its line, with the answer on the next.
ALONE = re.compile(
    r"^[ \t>]{0,8}(?:#{1,6}[ \t]{0,3})?(?:\d{1,2}[.)][ \t]{1,3})?(?:[^\w\s#]{1,3}[ \t]{0,2})?"
    rf"(?:(?:so|therefore|thus|hence),?[ \t])?(?:the |my |your |our )?{ADJECTIVES}"
    r"(?:answer|ans|choice|option|result|answer is|result is|answer choice|answer (?:to the|in) \w{1,12})"
    r"[ \t]{0,3}[:=]{0,2}[ \t]{0,3}\.?[ \t]{0,3}\n\s{0,20}(?=\S)",
    re.IGNORECASE | re.MULTILINE,
)
LABEL = re.compile(r"[^\n:]{1,30}:(?!\d)(?=\s|\S{1,40}\s\S+\s\S)")
FIELD = re.compile(r"(?<=[:\s])[ \t]?\"([^\"\n]{1,300})\"[ \t\n]{0,20}(?=\"?(?:[,}\]]|$))")  # of a JSON object
HASHES = re.compile(r"(?m)^[ \t>]{0,8}####[ \t]{0,4}(?=\S)")
BOX = re.compile(f"{OPEN}([^{OPEN}{CLOSE}]*){CLOSE}")
_TAG_NAMES = any_of("answer, final_answer, final-answer, finalanswer, final, result, solution, ans, choice, option")
TAG = re.compile(
    rf"<(?:{_TAG_NAMES})>\s{{0,20}}|\[ANSWER\]\s{{0,20}}|\[\[\s{{0,4}}(?=[A-Za-z0-9$.-]{{1,40}}\s{{0,4}}\]\])",
    re.IGNORECASE,
)
TAG_END = re.compile(rf"</?(?:{_TAG_NAMES}|think|reasoning)>|\[/ANSWER\]|\]\]", re.IGNORECASE)
ASSERTED = re.compile(
    rf"{_GAP}(?:is|would be|must be|should be|has to be){_GAP}(?:therefore |thus |hence |clearly |indeed |then )?"
    rf"(?:the|our|my|your){_GAP}{ADJECTIVES}(?:answer|result|solution)\b(?![ \t]{{0,3}}(?:to (?:part|step)|of|:|\?))",
    re.IGNORECASE,
)

FINAL = re.compile(r"(?:final|end|overall)\b", re.IGNORECASE)
OPTION = re.compile(rf"(?:{OPTION_NOUNS}|(?:letter|response|output)$)\b", re.IGNORECASE)
_DETERMINERS = any_of(
    "the, my, our, your, final, correct, right, best, appropriate, likely, suitable, logical, accurate, only"
)
DETERMINED = re.compile(
    rf"(?:\b(?:{_DETERMINERS}){_GAP}|^[ \t]*|[.!?:;,\n][ \t]*|\b(?:so|therefore|thus|hence),?[ \t]*)\Z", re.IGNORECASE
)
_SUPPOSING = any_of(
    "if, whether, suppose, supposing, assume, assuming, unless, imagine, how, why, what, whose, before, until, sure,"
    "explain"
)
HYPOTHETICAL = re.compile(rf"\b(?:{_SUPPOSING})[ \t,](?:[^.!?\n]{{0,30}})?\Z", re.IGNORECASE)
COUNTERFACTUAL = re.compile(r"\s{0,4}if\b[^.!?\n]{0,200}\b(?:were|had|would)\b", re.IGNORECASE)
_OTHERS = any_of(
    r"agents?, students?, teachers?, he, she, they, you, others?, someone, draft, friend, peer, solution, response,"
    r"agent \d, model, assistant, judge, classmate, reviewer, people, some, one agent"
)
_SAYING = any_of(
    "says?, said, claims?, claimed, thinks?, thought, argues?, argued, states?, stated, believes?, believed, suggests?,"
    "suggested, concludes?, concluded, insists?, gave, gives, wrote, writes, that"
)
REPORTED = re.compile(rf"\b(?:{_OTHERS})\b[^.!?\n]{{0,30}}\b(?:{_SAYING})\b[^.!?\n]{{0,20}}\Z", re.IGNORECASE)
_OWNERS = any_of("agent, student, teacher, assistant, model, judge, critic, expert, person, friend, classmate")
_OTHER = any_of("your, previous, earlier, former, original, other, another, first, second, third, fourth, initial")
# What stands before "answer" where it is not the reply's own: "Agent 1's answer", "the previous answer".
ANOTHERS = re.compile(
    rf"(?:\b(?:{_OWNERS})(?:{_GAP}(?:\d{{1,3}}|(?-i:[A-Z])))?['’]s?|\b(?:{_OTHER})){_GAP}\Z", re.IGNORECASE
)
