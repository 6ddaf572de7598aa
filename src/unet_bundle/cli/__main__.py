"""``python -m unet_bundle.cli``: the command line where no script directory is on the path."""

import sys

from unet_bundle.cli import main

sys.exit(main())
