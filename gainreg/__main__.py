"""``python -m gainreg``."""

from gainreg.cli import main

raise SystemExit(main())
