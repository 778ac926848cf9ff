"""COCO's keypoint AP as slow and as plain as its definition: every number a Python float."""

from typing import Any

import numpy as np

TEN = ("ap", "ap50", "ap75", "ap_medium", "ap_large", "ar", "ar50", "ar75", "ar_medium", "ar_large")
AREAS = ((0, 1e10), (32**2, 96**2), (96**2, 1e10))  # all, medium, large


def reference_oks(pose: list[float], person: dict[str, Any], sigmas: tuple[float, ...], area: float) -> float:
    """COCO's similarity; a region without keypoints takes whatever lies within twice its box."""
    labelled = [k for k in range(len(sigmas)) if person["keypoints"][3 * k + 2] > 0]
    left, top, width, height = person["bbox"]
    terms = []
    for k in labelled or range(len(sigmas)):
        x, y = pose[3 * k], pose[3 * k + 1]
        if labelled:
            dx, dy = x - person["keypoints"][3 * k], y - person["keypoints"][3 * k + 1]
        else:
            dx = max(0, left - width - x, x - (left + 2 * width))
            dy = max(0, top - height - y, y - (top + 2 * height))
        terms.append(np.exp(-(dx**2 + dy**2) / (2 * (2 * sigmas[k]) ** 2 * (area + np.spacing(1)))))
    return sum(terms) / len(terms)


def reference_matches(
    persons: list[dict], areas: list[float], poses: list[dict], sigmas, threshold: float, span: tuple[float, float]
) -> tuple[list[tuple[float, bool]], int]:
    """One photo: (score, right or wrong) of each pose that counts, and the number of persons to find."""
    counts = [
        not person["iscrowd"] and person["num_keypoints"] > 0 and span[0] <= area <= span[1]
        for person, area in zip(persons, areas, strict=True)
    ]
    taken: set[int] = set()
    judged = []
    for pose in sorted(poses, key=lambda pose: -pose["score"])[:20]:
        found = None
        for wanted in (True, False):  # persons to find first, then those that are ignored
            for number, person in enumerate(persons):
                if counts[number] != wanted or (number in taken and not person["iscrowd"]):
                    continue
                oks = reference_oks(pose["keypoints"], person, sigmas, areas[number])
                if oks >= min(threshold, 1 - 1e-10) and (found is None or oks >= found[0]):
                    found = oks, number
            if found is not None:
                break
        if found is not None:
            taken.add(found[1])
            if counts[found[1]]:
                judged.append((pose["score"], True))
        else:
            x, y = pose["keypoints"][0::3], pose["keypoints"][1::3]
            if span[0] <= (max(x) - min(x)) * (max(y) - min(y)) <= span[1]:
                judged.append((pose["score"], False))
    return judged, sum(counts)


def reference_curve(judged: list[tuple[float, bool]], num_persons: int) -> tuple[float, float]:
    """Mean over 101 recalls of the best precision at that recall or more; and the recall reached."""
    if num_persons == 0:
        return -1.0, -1.0
    judged = sorted(judged, key=lambda each: -each[0])
    right, points = 0, []
    for number, (_, is_right) in enumerate(judged, 1):
        right += is_right
        points.append((right / num_persons, right / number))
    best = [
        max((precision for recall, precision in points if recall >= wanted), default=0)
        for wanted in np.linspace(0, 1, 101)
    ]
    return sum(best) / 101, right / num_persons


def reference(truth: dict, results: list[dict], sigmas, *, box_area: bool, photos: set[int] | None = None) -> dict:
    """The ten numbers of COCO for the given photos."""
    curves = {}
    for a, span in enumerate(AREAS):
        for t, threshold in enumerate(np.linspace(0.5, 0.95, 10)):
            judged, num_persons = [], 0
            for image_id in sorted(image["id"] for image in truth["images"]):
                if photos is not None and image_id not in photos:
                    continue
                persons = [person for person in truth["annotations"] if person["image_id"] == image_id]
                areas = [p["bbox"][2] * p["bbox"][3] * 0.53 if box_area else p["area"] for p in persons]
                poses = [pose for pose in results if pose["image_id"] == image_id]
                more, number = reference_matches(persons, areas, poses, sigmas, threshold, span)
                judged += more
                num_persons += number
            curves[a, t] = reference_curve(judged, num_persons)

    def mean(place: int, area: int, thresholds) -> float:
        values = [curves[area, t][place] for t in thresholds if curves[area, t][place] > -1]
        return sum(values) / len(values) if values else -1.0

    cases = ((0, range(10)), (0, [0]), (0, [5]), (1, range(10)), (2, range(10)))
    return dict(zip(TEN, [mean(place, area, t) for place in (0, 1) for area, t in cases], strict=True))
