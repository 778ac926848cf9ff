/** The meaning of the K keypoints of a pose, as in Python's `Skeleton`. */
export interface Skeleton {
  readonly name: string;
  readonly keypoints: readonly string[];
  readonly limbs: readonly (readonly [number, number])[];
  readonly pairs: readonly (readonly [number, number])[]; // (left, right)
  readonly sigmas: readonly number[];
}

const FACE = ["nose", "left_eye", "right_eye", "left_ear", "right_ear"];
const BODY = ["shoulder", "elbow", "wrist", "hip", "knee", "ankle"].flatMap((part) => [`left_${part}`, `right_${part}`]);
const TOP = ["head_top", "neck"];

/** The keypoints of the built-in skeletons. */
export const BUILT_IN: Readonly<Record<string, readonly string[]>> = {
  coco: [...FACE, ...BODY],
  crowdpose: [...BODY, ...TOP],
  body19: [...FACE, ...BODY, ...TOP],
};

/** The skeleton with some of the keypoints. */
export function subset(skeleton: Skeleton, name: string, keypoints: readonly string[]): Skeleton {
  const chosen = indices(skeleton, keypoints);
  const kept = (links: Skeleton["limbs"]) =>
    links
      .map(([first, second]) => [chosen.indexOf(first), chosen.indexOf(second)] as const)
      .filter(([first, second]) => first >= 0 && second >= 0);
  return {
    name,
    keypoints,
    limbs: kept(skeleton.limbs),
    pairs: kept(skeleton.pairs),
    sigmas: chosen.map((place) => skeleton.sigmas[place]),
  };
}

export function indices(skeleton: Skeleton, keypoints: readonly string[]): number[] {
  return keypoints.map((name) => skeleton.keypoints.indexOf(name));
}

/** The skeletons that a model with these keypoints can report: its own, and the built-in ones that it has all of. */
export function choices(own: Skeleton): Skeleton[] {
  const others = Object.entries(BUILT_IN).filter(
    ([name, keypoints]) => name !== own.name && keypoints.every((each) => own.keypoints.includes(each)),
  );
  return [own, ...others.map(([name, keypoints]) => subset(own, name, keypoints))];
}
