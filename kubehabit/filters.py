"""Options of a command from the pydantic model that the API and the console read the same query with."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from datetime import datetime
from importlib import import_module
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from typer.core import TyperCommand

from kubehabit.options import moment

#: Letters of the options that are typed most.
_SHORT = {"principal": ("-p",), "namespace": ("-n",)}

#: Help of options that mean the same in every command.
_HELP = {"until": "End, written as the start is."}


class QueryCommand(TyperCommand):
    """A command with one option for each field of a pydantic model; its function finds the query in `ctx.obj`.

    The model is imported when the command is used, not when the command line starts. Make subclasses with `query_command`.
    """

    model_path = ""
    fields: Sequence[str] = ()
    _filters: list[Any] | None = None

    def get_params(self, ctx: Any) -> list[Any]:
        """The filters, then the options of the function."""
        if self._filters is None:
            self._filters = _options_of(self._model(), self.fields)
            self.params = [*self._filters, *self.params]
        return super().get_params(ctx)

    def invoke(self, ctx: Any) -> Any:
        """Put the query into `ctx.obj` and call the function."""
        from pydantic import ValidationError

        model = self._model()
        given = {option.name: ctx.params.pop(option.name) for option in self._filters or ()}
        keys = {name: model.model_fields[name].alias or name for name in given}
        values = {
            keys[name]: _as_time(value) if _is_time(model.model_fields[name]) else value
            for name, value in given.items()
            if value not in (None, ())
        }
        try:
            ctx.obj = model(**values)
        except ValidationError as error:
            first = error.errors()[0]
            wrong = next((name for name in given if first["loc"][:1] in ((name,), (keys[name],))), None)
            raise typer.BadParameter(
                first["msg"], ctx=ctx, param_hint=_flag(wrong) if wrong else None
            ) from error
        return super().invoke(ctx)

    def _model(self) -> Any:
        module, _, name = self.model_path.partition(":")
        return getattr(import_module(module), name)


def query_command(model_path: str, fields: Sequence[str]) -> type[QueryCommand]:
    """A command class with one option for each of some fields of `module:Model`.

    A field becomes the option `--field-name` with the field's description, default, choices and bounds. A list may be
    repeated, an empty choice is left out, and a time accepts what a person writes (7d, 14:02).
    """
    return type("QueryCommand", (QueryCommand,), {"model_path": model_path, "fields": tuple(fields)})


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _is_time(field: Any) -> bool:
    return field.annotation is datetime or datetime in get_args(field.annotation)


def _as_time(text: str) -> str:
    from serving.forensics.clock import written

    return written(moment(text) or 0)


def _type_of(field: Any) -> Any:
    """The type of the option; None stands for not given, so a text is never required."""
    if _is_time(field):
        return str | None
    if get_origin(field.annotation) is Literal:
        choices = tuple(choice for choice in get_args(field.annotation) if choice)
        return Literal[choices] | None
    return field.annotation


def _options_of(model: Any, fields: Sequence[str]) -> list[Any]:
    parameters = []
    for name in fields:
        field = model.model_fields[name]
        bounds = {
            key: getattr(limit, attribute)
            for limit in field.metadata
            for key, attribute in (("min", "ge"), ("max", "le"))
            if hasattr(limit, attribute)
        }
        default = field.get_default(call_default_factory=True) or None
        names = [_flag(name), *_SHORT.get(name, ())]
        help_ = _HELP.get(name)
        if help_ is None and field.description:
            help_ = f"{field.description.removesuffix('; empty: any')}."
        option = typer.Option(*names, help=help_, **bounds)
        type_ = _type_of(field) if default is not None else _type_of(field) | None
        parameters.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[type_, option]
            )
        )

    def carrier(**_: Any) -> None:
        """Carries the signature that Typer reads."""

    carrier.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    carrier.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = typer.Typer(add_completion=False)
    app.command()(carrier)
    return list(typer.main.get_command(app).params)
