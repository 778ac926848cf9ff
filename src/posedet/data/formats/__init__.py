"""The forms of annotations that can be read. A new one is a file here, and an entry in `FORMATS`."""

from posedet.data.formats import coco, ochuman, ultralytics

# The first that recognises a file reads it: OCHuman's own files are JSON, too, as COCO's are.
FORMATS = (ultralytics.FORMAT, ochuman.FORMAT, coco.FORMAT)
