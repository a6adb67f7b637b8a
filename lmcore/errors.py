"""The one exception for mistakes that a user can make."""


class InputError(ValueError):
    """The user's input is wrong: the message is one line that says the rule, the offending value and the remedy.

    Entry points print the message alone and exit with code 2; anything else is a bug and keeps its traceback.
    """
