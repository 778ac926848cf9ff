"""Turn off what the runtimes report about their use, before they are loaded."""

import os
import sys


def turn_off() -> None:
    """Keep ONNX Runtime and OpenVINO in this process, and in those that it starts, from reporting their use.

    ONNX Runtime (1.32) writes an identifier below the home folder when it is imported, and contacts its host some
    seconds later. If it was imported earlier, only its further events can be turned off.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    if "onnxruntime" in sys.modules:  # also for releases and systems that do not read the variable
        sys.modules["onnxruntime"].disable_telemetry_events()
    # OpenVINO has no variable for this, and reports its import. It has a stand-in for a package that is not installed.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
