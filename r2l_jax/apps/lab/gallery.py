"""The pictures of all visitors by address, encoded when a browser asks for them: those it skips cost nothing."""

import secrets

from r2l_jax.apps.lab import drawing
from r2l_jax.apps.lab.session import Session

JPEG, PNG = "image/jpeg", "image/png"


class Gallery:
    """Gives each session an address that others cannot guess, and draws the pictures there."""

    def __init__(self):
        self._sessions: dict[str, Session] = {}

    def add(self, session: Session) -> str:
        """Returns the secret part of the addresses of a session's pictures."""
        token = secrets.token_urlsafe(16)
        self._sessions[token] = session
        return token

    def remove(self, token: str) -> None:
        """Forgets a session."""
        self._sessions.pop(token, None)

    def draw(self, token: str, name: str) -> tuple[bytes, str] | None:
        """Draws a picture of a session; may be called in any thread.

        Args:
            token: what `add` has returned.
            name: "now", "before", "clipping", "outline", or "strip" for the images after all stages.

        Returns:
            The content and its media type; None if there is no such picture.
        """
        session = self._sessions.get(token)
        if session is None or session.view is None or session.picture is None:
            return None
        draft, picture, judgement = session.draft, session.picture, session.judgement
        if name == "now":
            if draft is not None:
                return drawing.jpeg(draft), JPEG
            return drawing.png(picture.stages.get(session.stage or "", picture.image)), PNG
        if name == "before":
            before = session.view.before
            return drawing.png(before.stages.get(session.stage or "", before.image)), PNG
        if name == "clipping":
            return drawing.clipping(picture), PNG
        if name == "outline" and judgement is not None and judgement.probabilities.ndim > 1:
            return drawing.mask(judgement.probabilities), PNG
        return (drawing.strip(list(picture.stages.values())), JPEG) if name == "strip" else None
