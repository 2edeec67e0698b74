"""Stories like those of bAbI (Weston et al. 2015, arXiv:1502.05698): who is where (task 1), how many things somebody
carries (task 7), and which (task 8).

Our generator, in bAbI's words: a story goes on as long as a row has room. Tokens are whole words, `WORDS` by id.
"""

from jaxlm.data.synthetic.arithmetic import Draws
from jaxlm.data.synthetic.task import Rng, Task

PEOPLE = ("mary", "john", "sandra", "daniel")
PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
THINGS = ("apple", "football", "milk")
NUMBERS = ("none", "one", "two", "three")
REST = [
    "went",
    "moved",
    "to",
    "the",
    "got",
    "dropped",
    ".",
    "where",
    "is",
    "how",
    "many",
    "objects",
    "carrying",
    "what",
    "?",
    "nothing",
]
WORDS = ("<pad>", *PEOPLE, *PLACES, *THINGS, *NUMBERS, *REST)
IDS = {word: i for i, word in enumerate(WORDS)}


def where(rng: Rng, n: int, V: int):
    """Task 1: people go to places -> where one of them is."""
    draws, story, at = Draws(rng, 4 * n), [], {}
    while len(story) + 6 + 4 + 1 <= n:  # a sentence, the question, the answer
        person, place = _of(draws, PEOPLE), _of(draws, PLACES)
        at[person] = place
        story += [person, _of(draws, ("went", "moved")), "to", "the", place, "."]
    person = _of(draws, tuple(at))
    return _ids([*story, "where", "is", person, "?"]), _ids([at[person]])


def how_many(rng: Rng, n: int, V: int):
    """Task 7: people get and drop things -> how many one of them carries."""
    story, carried, draws = _carrying(rng, n - 8)
    person = _of(draws, tuple(carried))
    question = ["how", "many", "objects", "is", person, "carrying", "?"]
    return _ids([*story, *question]), _ids([NUMBERS[len(carried[person])]])


def which(rng: Rng, n: int, V: int):
    """Task 8: the same -> the things, in the order in which they were got, or "nothing"."""
    story, carried, draws = _carrying(rng, n - 5 - len(THINGS))
    person = _of(draws, tuple(carried))
    return _ids([*story, "what", "is", person, "carrying", "?"]), _ids(carried[person] or ["nothing"])


def _carrying(rng: Rng, n: int) -> tuple[list[str], dict[str, list[str]], Draws]:
    """A story of at most n words, and what everybody in it carries at its end."""
    draws, story, carried = Draws(rng, 4 * n + 40), [], {}
    while len(story) + 5 <= n:
        thing = _of(draws, THINGS)
        holder = next((person for person, things in carried.items() if thing in things), None)
        person = holder or _of(draws, PEOPLE)
        things = carried.setdefault(person, [])
        (things.remove if holder else things.append)(thing)
        story += [person, "dropped" if holder else "got", "the", thing, "."]
    return story, carried, draws


def _of(draws: Draws, names: tuple[str, ...]) -> str:
    return names[draws.below(len(names))]


def _ids(words: list[str]) -> list[int]:
    return [IDS[word] for word in words]


TASKS = {
    "where": Task(where, len(WORDS), lambda V: len(PLACES), 11, True),
    "how_many": Task(how_many, len(WORDS), lambda V: len(NUMBERS), 13, True),
    "which": Task(which, len(WORDS), lambda V: len(THINGS) + 1, 13, True),
}
