"""Names of keypoints as people write them: what is left and right, and what means the same."""

import pytest

from posedet.keypoint_names import find_names, infer_pairs, pairs_in_words, plain_names, sided_names
from posedet.skeleton import COCO

PAIRS = [
    *[("left_knee", "right_knee"), ("knee_left", "knee_right"), ("leftKnee", "rightKnee"), ("KneeLeft2", "KneeRight2")],
    *[("Left Knee", "Right Knee"), ("leftknee", "rightknee"), ("kneeleft", "kneeright"), ("left1", "right1")],
    *[("l_knee", "r_knee"), ("knee.L", "knee.R"), ("LKnee", "RKnee"), ("kneeL", "kneeR"), ("knee_1_l", "knee_1_r")],
    *[("Lknee", "Rknee"), ("lknee", "rknee"), ("LKNEE", "RKNEE"), ("kneel", "kneer"), ("lear", "rear"), ("L1", "R1")],
    *[
        ("LASI", "RASI"),
        ("LF_paw", "RF_paw"),
        ("lbigtoe", "rbigtoe"),
        ("J_Bip_L_Hand", "J_Bip_R_Hand"),
        ("Lt. Knee", "Rt. Knee"),
    ],
    *[("mixamorig:LeftArm", "mixamorig:RightArm"), ("left_eye_right_corner", "right_eye_left_corner")],
    *[("linkes_knie", "rechtes_knie"), ("linkesKnie", "rechtesKnie"), ("knie_li", "knie_re"), ("lknie", "rknie")],
    *[("linkerknie", "rechterknie"), ("genou gauche", "genou droit"), ("genou_g", "genou_d")],
    *[("rodilla izquierda", "rodilla derecha"), ("ojo_izq", "ojo_der"), ("rodilla_i", "rodilla_d")],
    *[("ginocchio sinistro", "ginocchio destro"), ("ginocchio_sx", "ginocchio_dx")],
    *[("joelho_esquerdo", "joelho_direito"), ("joelho_e", "joelho_d"), ("vänster_knä", "höger_knä")],
    *[("левое_колено", "правое_колено"), ("ЛевоеКолено", "ПравоеКолено"), ("колено_л", "колено_п")],
    *[
        ("左膝", "右膝"),
        ("膝左", "膝右"),
        ("左ひざ", "右ひざ"),
        ("왼쪽 무릎", "오른쪽 무릎"),
        ("kolano_lewe", "kolano_prawe"),
    ],
]


@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_left_and_right_are_found(left: str, right: str) -> None:
    assert infer_pairs([left, "nose", right]) == ((0, 2),)
    assert infer_pairs([right, "nose", left]) == ((2, 0),)
    assert pairs_in_words([left, "nose", right], ((0, 2),)) == f"left and right: {left} - {right}"


ALIKE = "names that differ in one letter or word, but are no pair"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["nose", "ear", "collar", "rear", "clear"], "no pairs of left and right"),
        (["lip", "rip"], f"no pairs of left and right; {ALIKE}: lip - rip; a skeleton file can pair them"),
        (
            ["bright", "bleft", "lipring", "ripring", "g", "d"],
            f"no pairs of left and right; {ALIKE}: lipring - ripring; ",
        ),
        (["lower", "rower"], f"no pairs of left and right; {ALIKE}: lower - rower; a skeleton file can pair them"),
        ([f"point_{letter}" for letter in "abcdefg"], "no pairs of left and right"),
        ([f"joint {letter}" for letter in "klqrs"], f"no pairs of left and right; {ALIKE}: joint l - joint r; a skele"),
        ([*["L1", "L2", "C1", "C2", "T1", "T2"]], "no pairs of left and right"),
        (["left_eye", "right_ear"], "no pairs of left and right; without a partner: left_eye, right_ear"),
        (["left_eye", "eye_left", "right_eye"], f"no pairs of left and right; {ALIKE}: left_eye - right_eye; a skele"),
    ],
)
def test_what_only_looks_like_a_pair_is_named(names: list[str], said: str) -> None:
    assert infer_pairs(names) == ()
    assert pairs_in_words(names, ()).startswith(said)


def test_a_pair_that_a_skeleton_does_not_have_is_named() -> None:
    text = pairs_in_words(COCO.keypoints, [pair for pair in COCO.pairs if pair != (5, 6)])
    assert text.endswith(f"{ALIKE}: left_shoulder - right_shoulder; a skeleton file can pair them")


def test_spellings_of_one_name() -> None:
    spellings = ["left_big_toe", "LeftBigToe", "big-toe (left)", "l bigToe", "BigToe.L", "leftbigtoe", "L_ＢＩＧ_toe"]  # noqa: RUF001
    assert {plain_names([name])[0] for name in spellings} == {"leftbigtoe"}
    assert len({*plain_names(["finger_1_1", "finger_11", "left_hand_right", "right_hand_right", "+", "-"])}) == 6
    assert sided_names(["nose", "lknee", "rknee"]) == [("nose", "middle"), ("knee", "left"), ("knee", "right")]


def test_names_are_found_as_spelt_or_in_their_plain_form() -> None:
    assert find_names(["left_knee", "nose", "tail"], ["rknee", "Nose", "lknee"]) == [2, 1, None]
    # Never one of two that mean the same, unless it is spelt the same.
    assert find_names(["left_eye", "LeftEye"], ["eye_left", "leftEye", "LeftEye"]) == [None, 2]
    # Without its partner, `rear` is no ear.
    assert find_names(["right_ear"], ["rear", "nose"]) == [None]
    assert find_names(["head_top", "head"], ["head"]) == [0, 0]
    assert find_names(["head_top", "head"], ["top of head"]) == [0, None]
