"""What OpenAPI says of bodies and answers, with examples."""

from typing import Any

_BINARY = {"type": "string", "format": "binary"}
_FORMATS = ("jpeg", "png", "webp", "avif", "gif", "bmp", "tiff", "heic")

PHOTOS_BODY: dict[str, Any] = {
    "required": True,
    "description": "One photo as it is, of any type that is not a form; or a form with files, whatever its fields are "
    "called.",
    "content": {f"image/{name}": {"schema": _BINARY} for name in _FORMATS}
    | {
        "application/octet-stream": {"schema": _BINARY},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"photo": {"type": "array", "items": _BINARY, "minItems": 1}},
                "required": ["photo"],
            }
        },
    },
}

_KEYPOINTS = {
    "type": "array",
    "items": {"type": "number"},
    "description": "x, y and score of each keypoint; x and y in pixels of the photo, score 0 to 1.",
}
_SCORE = {"type": "number", "minimum": 0, "maximum": 1}
_NAMES = {"type": "array", "items": {"type": "string"}}
_PAIRS = {
    "type": "array",
    "items": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
    "description": "Places in `keypoints`.",
}

_OWN = {
    "type": "object",
    "required": ["photos"],
    "properties": {
        "photos": {
            "type": "array",
            "description": "In the order of the request. `posedet.Poses.from_dict` reads an entry.",
            "items": {
                "type": "object",
                "required": ["file_name", "width", "height", "skeleton", "poses"],
                "properties": {
                    "file_name": {"type": ["string", "null"]},
                    "width": {"type": "integer"},
                    "height": {"type": "integer"},
                    "skeleton": {
                        "type": "object",
                        "required": ["name", "keypoints"],
                        "properties": {
                            "name": {"type": "string"},
                            "keypoints": _NAMES,
                            "limbs": _PAIRS,
                            "pairs": _PAIRS,
                            "sigmas": {"type": "array", "items": {"type": "number"}},
                        },
                    },
                    "poses": {
                        "type": "array",
                        "description": "Best first.",
                        "items": {
                            "type": "object",
                            "required": ["keypoints", "score"],
                            "properties": {"keypoints": _KEYPOINTS, "score": _SCORE},
                        },
                    },
                },
            },
        }
    },
}
_COCO = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["image_id", "category_id", "keypoints", "score"],
        "properties": {
            "image_id": {"type": "integer", "description": "The place of the photo in the request, from 1."},
            "category_id": {"type": "integer"},
            "keypoints": _KEYPOINTS,
            "score": _SCORE,
            "file_name": {"type": "string"},
        },
    },
}

_WRISTS = [141.3, 347.6, 0.98, 301.9, 338.4, 0.95]
POSES_ANSWER: dict[str, Any] = {
    "description": "The poses",
    "content": {
        "application/json": {
            "schema": {"oneOf": [_OWN, _COCO]},
            "examples": {
                "posedet": {
                    "summary": "skeleton=left_wrist,right_wrist",
                    "value": {
                        "photos": [
                            {
                                "file_name": "tennis.jpg",
                                "width": 640,
                                "height": 427,
                                "skeleton": {
                                    "name": "custom",
                                    "keypoints": ["left_wrist", "right_wrist"],
                                    "limbs": [],
                                    "pairs": [[0, 1]],
                                    "sigmas": [0.062, 0.062],
                                },
                                "poses": [{"keypoints": _WRISTS, "score": 0.91}],
                            }
                        ]
                    },
                },
                "coco": {
                    "summary": "skeleton=left_wrist,right_wrist&format=coco",
                    "value": [
                        {
                            "image_id": 1,
                            "category_id": 1,
                            "keypoints": _WRISTS,
                            "score": 0.91,
                            "file_name": "tennis.jpg",
                        }
                    ],
                },
            },
        }
    },
}


def _error(description: str, example: str) -> dict[str, Any]:
    schema = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    return {
        "description": description,
        "content": {"application/json": {"schema": schema, "example": {"error": example}}},
    }


ERRORS: dict[int | str, dict[str, Any]] = {
    401: _error("No token, or another one", "needs the server's token: Authorization: Bearer TOKEN"),
    408: _error("The request arrives too slowly", "the request did not arrive within 30 s"),
    413: _error("Too many bytes, pixels or photos", "photo: more than 16 million pixels; reduce its size first"),
    415: _error("Not a photo", "photo: not a photo, or damaged (supported: JPEG, PNG, WEBP, AVIF, GIF, BMP, TIFF)"),
    422: _error(
        "A damaged photo, an invalid form, or a setting out of range",
        "score_threshold: '2', input should be less than 1",
    ),
    503: _error("Too busy; Retry-After says when to try again", "too many photos are waiting; try again in 2 s"),
}
