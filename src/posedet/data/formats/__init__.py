"""The supported annotation formats. To add one, add a module here and an entry in `FORMATS`."""

from posedet.data.formats import coco, ochuman, ultralytics

# The first format that recognises a file reads it. OCHuman comes before COCO, because both are JSON.
FORMATS = (ultralytics.FORMAT, ochuman.FORMAT, coco.FORMAT)
