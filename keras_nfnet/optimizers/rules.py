"""What optimizers are given: rules that name variables, Keras's arguments."""

import keras

from keras_nfnet.utils.arguments import integer

# Keras's own clipping.
KERAS_CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm")


class Rule:
    """Names variables by object, by the end of a path, or by a function.

    Args:
        argument: Name of the optimizer's argument, for errors.
        value: A variable, the end of a path (`"head/kernel"`), a list of
            these, a function from a variable to bool, or `None` for none.
    """

    def __init__(self, argument, value):
        self._argument = argument
        self._function = value if callable(value) else None
        if value is None or callable(value):
            value = []
        elif isinstance(value, str | keras.Variable):
            value = [value]
        try:
            self._entries = list(value)
            fits = all(
                isinstance(entry, str | keras.Variable)
                for entry in self._entries
            ) and not isinstance(value, dict)
        except TypeError:
            fits = False
        if not fits:
            raise ValueError(
                f"`{argument}` must be a list of variables and of path "
                'endings, such as `["head/kernel"]`, or a function from a '
                f"variable to bool. Received: {argument}={value!r}"
            )
        self._variables = []

    def names(self, variables):
        """Which of the variables the rule names, as a list of bools.

        Raises:
            ValueError: If the rule, or an entry of it, names none.
        """
        self._variables = list(variables)
        if self._function is not None:
            named = [bool(self._function(variable)) for variable in variables]
            if variables and not any(named):
                self._refuse_idle(self._function)
            return named
        named = [False] * len(variables)
        for entry in self._entries:
            hits = [
                index
                for index, variable in enumerate(variables)
                if _is_named(variable, entry)
            ]
            if not hits:
                self._refuse_idle(entry)
            for index in hits:
                named[index] = True
        return named

    def _refuse_idle(self, entry):
        paths = [variable.path for variable in self._variables]
        listed = ", ".join(paths[-5:])
        raise ValueError(
            f"`{self._argument}` must name trainable variables of the model, "
            f"whose paths end in, for example, {listed}. Received one that "
            f"names none: {_described(entry)}"
        )

    def config(self):
        """The rule in a form that can be saved and loaded.

        Raises:
            ValueError: If what is loaded would be another rule.
        """
        if self._function is not None:
            return self._function_config()
        return [self._entry_config(entry) for entry in self._entries]

    def _function_config(self):
        config = keras.saving.serialize_keras_object(self._function)
        try:
            twin = keras.saving.deserialize_keras_object(config)
        except (TypeError, ValueError):
            twin = None
        if not callable(twin):
            raise ValueError(
                f"`{self._argument}` cannot be saved: Keras cannot load this "
                "function again. Name the variables by the ends of their "
                "paths, or decorate a function with "
                "`@keras.saving.register_keras_serializable()`. Received: "
                f"{self._argument}={self._function!r}"
            )
        return config

    def _entry_config(self, entry):
        if isinstance(entry, str):
            return entry
        namesakes = [v for v in self._variables if _is_named(v, entry.path)]
        if len(namesakes) > 1:
            raise ValueError(
                f"`{self._argument}` cannot be saved: it names one of "
                f"{len(namesakes)} variables whose paths end in "
                f"{entry.path!r}. Give the layers other names. "
                f"Received: {_described(entry)}"
            )
        return entry.path


def _is_named(variable, entry):
    if not isinstance(entry, str):
        return variable is entry
    return variable.path == entry or variable.path.endswith(f"/{entry}")


def _described(entry):
    if isinstance(entry, keras.Variable):
        return f"the variable {entry.path!r}"
    return repr(entry)


def check_keras_arguments(arguments):
    """Checks Keras's arguments by name, and refuses its own clipping.

    Args:
        arguments: A dictionary; what stands in it for a number becomes one.
    """
    parts = "gradient_accumulation_steps"
    if parts in arguments:
        arguments[parts] = integer(
            parts, arguments[parts], least=2, optional=True
        )
    for argument in KERAS_CLIPPING:
        if arguments.get(argument) is not None:
            raise ValueError(
                f"`{argument}` makes no sense together with adaptive "
                "gradient clipping; leave it out, or set `clipping`. "
                f"Received: {argument}={arguments[argument]!r}"
            )
