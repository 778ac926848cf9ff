"""`python -m posedet` is `posedet`."""

import sys

from posedet.commands.main import main

sys.exit(main())
