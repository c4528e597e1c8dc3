"""The errors a person can mend, kept apart from the errors that are ours."""

# What to do about a dataset on a Hub that cannot be reached.
OFFLINE = (
    "; is there a network, and is HF_HUB_OFFLINE unset? Or `hf download --repo-type dataset NAME --local-dir FOLDER` where there is one, "
    "and name that folder"
)


class UserError(Exception):
    """Something the user can mend: says what, where and what to do. The command line prints it and exits 2."""


class RecipeError(UserError):
    """Every fault of one recipe at once, one per line."""

    def __init__(self, faults: list[str]):
        self.faults = faults
        super().__init__("\n".join(faults))


class Undecodable(Exception):
    """One image that cannot be decoded; the caller quarantines it and goes on. reason: a slug by which such images are counted."""

    def __init__(self, message: str, reason: str = "undecodable"):
        self.reason = reason
        super().__init__(message)
