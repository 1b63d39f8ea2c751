"""`python -m recipes.cli`, as torchrun starts it."""

from recipes.cli import main

raise SystemExit(main())
