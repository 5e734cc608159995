"""What a user did wrong, as opposed to what the library or the machine did wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the user can mend: one line that names the value, the place and the way out.

    The command line tools print it without a traceback and leave with status 2;
    failures of the machine (``OSError``) leave with status 1.
    """


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """The known names closest to a mistyped one, ready to end an error message.

    Returns `` (did you mean 'a' or 'b'?)`` or an empty string when nothing is close.
    """
    known = list(known)
    folded = {k.lower(): k for k in known}
    close = [folded[m] for m in difflib.get_close_matches(name.lower(), folded, n=count, cutoff=0.6)]
    return f" (did you mean {' or '.join(repr(c) for c in close)}?)" if close else ""
