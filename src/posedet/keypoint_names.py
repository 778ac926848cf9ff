"""Read the names of keypoints as people write them: which are left and right, and which of two lists mean the same.

A name consists of words: `left_eye`, `EyeLeft` and `l.eye` have two each. A side is a word of its own, or is written
together with another one, as in `lefteye` and `leye`. Most spellings count only beside their partner in the same list:
`rear` may be an ear or a back, and `re` may be German for right.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

# English, German and Dutch, French, Spanish, Italian, Portuguese, Catalan, Scandinavian, Finnish, Polish, Czech,
# Russian, Greek, Chinese, Japanese, Korean, Arabic, Indonesian.
_LEFT = (
    "left links linke linken linker linkes gauche gauches "  # codespell:ignore linke,linkes
    "izquierda izquierdo sinistra sinistro esquerda esquerdo "
    "esquerra vänster vänstra venstre vasen lewa lewe lewy levá levé levý левая левое левые левый αριστερή αριστερό "
    "左 左边 左邊 左侧 左側 ひだり 왼 왼쪽 يسار أيسر يسرى kiri"
)
_RIGHT = (
    "right rechts rechte rechten rechter rechtes droit droite droits droites derecha derecho destra destro direita "
    "direito dreta höger högra højre høyre oikea prawa prawe prawy pravá pravé pravý правая правое правые правый "
    "δεξιά δεξιό δεξιή 右 右边 右邊 右侧 右側 みぎ 오른 오른쪽 يمين أيمن يمنى kanan"
)
# Abbreviations and short words, left before right: they count only as words of their own, and beside their partner.
_SHORT = (
    "lt rt,lft rgt,lft rht,li re,g d,i d,izq der,izq dcha,s d,sx dx,sin dex,e d,esq dir,l p,лев прав,л п,sol sağ,"
    "bal jobb,zuo you,hidari migi"
)
# What may follow or precede a single letter in one word, as in `lknee`, `RSHO` and `LF_paw`. Other words that differ in
# such a letter, as `lip` and `rip`, are probably no pair.
_PARTS = re.compile(
    r"(big|small|little|upper|lower|up|low|fore|hind|front|back|inner|outer|mid)?"
    r"(ankle|antenna|arm|back|breast|brow|buttock|calf|cheek|chest|clavicle|collar|corner|ear|elbow|eye|eyebrow|eyelid|"
    r"finger|foot|front|gill|hand|heel|hip|hock|hoof|horn|index|jaw|knee|leg|mouth|nostril|palm|paw|pelvis|pinky|pupil|"
    r"rear|ring|shin|shoulder|side|temple|thigh|thumb|tip|toe|top|wing|wrist|auge|ellbogen|fuss|hüfte|knie|knöchel|ohr|"
    r"schulter|coude|épaule|genou|hanche|oeil|oreille|poignet|"
    r"cadera|codo|hombro|muñeca|ojo|oreja|rodilla)|"  # codespell:ignore codo
    r"ank|ankl|asi|b|bhd|elb|f|fhd|fin|fra|h|kne|psi|sho|shldr|thi|tib|wr|wra|wrb|wri"  # codespell:ignore thi
)

_UPPER, _LOWER = "A-ZÀ-ÖØ-ÞΑ-ΩА-ЯЁ", "a-zß-öø-ÿα-ωа-яё"
_WORD_START = re.compile(
    f"(?<=[{_LOWER}])(?=[{_UPPER}])|(?<=[{_UPPER}])(?=[{_UPPER}][{_LOWER}])"  # leftEye, and LEye
    r"|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])"  # left1
)
_SIDE_OF = dict.fromkeys(_LEFT.split(), "left") | dict.fromkeys(_RIGHT.split(), "right")
_LETTERS = {"l": "left", "r": "right"}
_WITHIN = re.compile(
    "(?P<start>{0})(?P<rest>.+)|(?P<before>.+?)(?P<end>{0})".format("|".join(sorted(_SIDE_OF, key=len, reverse=True)))
)
_PAIRS = [tuple(pair.split()) for pair in _SHORT.split(",")]
_MIDDLE = {"c", "m"}  # letters for what lies in the middle, beside l and r

# Other names of the same place, in their plain form: CrowdPose's files say "head" for the top of the head.
_SYNONYMS = {"headtop": ("head", "tophead", "topofhead")}


class SidedName(NamedTuple):
    """A keypoint's name without its side, in lower-case words, and its side."""

    part: str
    side: str  # left, right or middle


class _Reading(NamedTuple):
    """One way to read a name. Two names with the same key and opposite sides are each other's partners."""

    key: tuple[str, ...]
    name: SidedName
    rank: int  # 0: a side even without its partner; 1: only beside it; 2: probably no side


class _Names(NamedTuple):
    """How the names of a list are read, and which of them are partners."""

    sided: list[SidedName]
    partners: dict[int, int]  # left -> right
    alike: list[tuple[int, int]]  # names that differ in what may be a side, but are no partners


def infer_pairs(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Return the pairs (left, right) of keypoints whose names differ only in the side, sorted by their first member.

    A side is a word (`left_eye`, `eye-left`, `LeftEye`, `rodilla izquierda`, `左膝`), an abbreviation or a letter
    (`l_eye`, `eye.R`, `LEye`, `ojo_izq`), or a letter before or after a part of the body (`leye`, `RSHO`).
    """
    return tuple(sorted(_read(tuple(names)).partners.items(), key=min))


def sided_names(names: Sequence[str]) -> list[SidedName]:
    """Return each name without its side, and its side: `Left_Eye` -> ("eye", "left"), `nose` -> ("nose", "middle")."""
    return _read(tuple(names)).sided


def plain_names(names: Sequence[str]) -> list[str]:
    """Return each name in a form that does not depend on case, separators, and where and how its side is written."""
    return [("" if side == "middle" else side) + _joined(part) for part, side in sided_names(names)]


def find_names(wanted: Sequence[str], names: Sequence[str]) -> list[int | None]:
    """Return the index in `names` of each of `wanted`, as spelt or in its plain form; None if it is not there."""
    exact = {name: place for place, name in enumerate(names)}
    if exact.keys() >= {*wanted}:
        return [exact[name] for name in wanted]
    plain: dict[str, int | None] = {}
    for place, name in enumerate(plain_names(names)):
        plain[name] = None if name in plain else place  # never one of two

    def find(name: str, form: str) -> int | None:
        forms = (form, *_SYNONYMS.get(form, ()))
        return exact.get(name, next((plain[each] for each in forms if each in plain), None))

    return [find(name, form) for name, form in zip(wanted, plain_names(wanted), strict=True)]


def pairs_in_words(names: Sequence[str], pairs: Sequence[tuple[int, int]]) -> str:
    """Describe the pairs (left, right) of keypoints, and the names that look like one but are none, in one line."""
    read, paired = _read(tuple(names)), {place for pair in pairs for place in pair}
    text = ", ".join(f"{names[left]} - {names[right]}" for left, right in pairs)
    parts = [f"left and right: {text}" if text else "no pairs of left and right"]
    alike = [pair for pair in (*read.partners.items(), *read.alike) if not paired & {*pair}]
    if alike:
        text = ", ".join(f"{names[first]} - {names[second]}" for first, second in alike)
        parts.append(f"names that differ in one letter or word, but are no pair: {text}; a skeleton file can pair them")
    known = paired | {place for pair in alike for place in pair}
    alone = [names[place] for place, name in enumerate(read.sided) if name.side != "middle" and place not in known]
    if alone:
        parts.append(f"without a partner: {', '.join(alone)}")
    return "; ".join(parts)


@lru_cache(64)
def _read(names: tuple[str, ...]) -> _Names:
    words = [_words(name) for name in names]
    letters: dict[tuple[str, ...], set[str]] = {}
    for each in words:
        for place, word in enumerate(each):
            if len(word) == 1:
                letters.setdefault(_hole(each, place), set()).add(word)
    readings = [list(_readings(each, letters)) for each in words]
    sided = [next((each.name for each in found if each.rank == 0), None) for found in readings]
    partners: dict[int, int] = {}
    alike: list[tuple[int, int]] = []
    free = set(range(len(names)))
    for rank in range(3):
        places: dict[tuple[str, ...], dict[str, list[tuple[int, SidedName]]]] = {}
        for place in sorted(free):
            for reading in readings[place]:
                if reading.rank <= rank:
                    sides = places.setdefault(reading.key, {"left": [], "right": []})
                    sides[reading.name.side].append((place, reading.name))
        for sides in places.values():
            found = [[each for each in side if each[0] in free] for side in sides.values()]
            if not all(found):
                continue
            (left, left_name), (right, right_name) = found[0][0], found[1][0]
            if rank == 2:
                alike.append((left, right))
            elif len(found[0]) == len(found[1]) == 1:
                partners[left] = right
                sided[left], sided[right] = left_name, right_name
                free -= {left, right}
    plain = [SidedName(" ".join(each) or name, "middle") for each, name in zip(words, names, strict=True)]
    return _Names([each or other for each, other in zip(sided, plain, strict=True)], partners, alike)


def _words(name: str) -> list[str]:
    separated = _WORD_START.sub(" ", unicodedata.normalize("NFKC", name))
    return [word for word in re.split(r"[\W_]+", separated.casefold()) if word]


def _readings(words: list[str], letters: dict[tuple[str, ...], set[str]]) -> Iterator[_Reading]:
    """Yield all ways to read a name. letters: the single letters that all names have in each place."""

    def reading(place: int, side: str, rank: int, *, kind: str = "", rest: str = "") -> _Reading:
        part = " ".join([*words[:place], *([rest] if rest else []), *words[place + 1 :]])
        return _Reading((kind, part), SidedName(part, side), rank)

    def numbered(place: int, *pair: str) -> bool:
        """Whether the names are numbered with letters, so that a letter is no side: `point_k`, `point_l`, ..."""
        return not letters[_hole(words, place)] <= {*pair, *_MIDDLE}

    marked = {place: _SIDE_OF[word] for place, word in enumerate(words) if word in _SIDE_OF}
    marked |= {
        place: _LETTERS[word] for place, word in enumerate(words) if word in _LETTERS and not numbered(place, *"lr")
    }
    if len(marked) > 1:
        # The mirror exchanges every side: `left_eye_right_corner` and `right_eye_left_corner`.
        first = marked[min(marked)]
        others = {place: "same" if side == first else "other" for place, side in marked.items()} | {min(marked): ""}
        part = " ".join(filter(None, (others.get(place, word) for place, word in enumerate(words))))
        yield _Reading(("", part), SidedName(part, first), 0)
    for place, word in enumerate(words):
        if place in marked:
            yield reading(place, marked[place], 0 if len(marked) == 1 else 1)
            continue
        for left, right in _PAIRS:
            if word in (left, right) and not (len(word) == 1 and (len(words) == 1 or numbered(place, left, right))):
                yield reading(place, "left" if word == left else "right", 1, kind=left + right)
        if word in _LETTERS:
            yield reading(place, _LETTERS[word], 2)
        if within := _WITHIN.fullmatch(word):
            side, rest = within["start"] or within["end"], within["rest"] or within["before"]
            if len(rest) > 1 or not rest.isascii():  # `bright` is no side
                yield reading(place, _SIDE_OF[side], 1, rest=rest)
        for letter, rest in ((word[0], word[1:]), (word[-1], word[:-1])):
            if letter in _LETTERS and rest:
                yield reading(place, _LETTERS[letter], 1 if _PARTS.fullmatch(rest) else 2, rest=rest)


def _hole(words: list[str], place: int) -> tuple[str, ...]:
    return (*words[:place], "", *words[place + 1 :])


def _joined(part: str) -> str:
    """Join words, but keep numbers apart."""
    return re.sub(r"(?<!\d) | (?!\d)", "", part)
