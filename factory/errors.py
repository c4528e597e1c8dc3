"""The errors a person can mend, kept apart from the errors that are ours."""


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
