"""The supported annotation formats. To add one, add a module here and an entry in `posedet.data.sources.FORMATS`."""
