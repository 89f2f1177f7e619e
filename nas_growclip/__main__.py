"""``python -m nas_growclip`` is ``growclip``."""

import sys

from nas_growclip.cli.main import main

sys.exit(main())
