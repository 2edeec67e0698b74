"""What a request says the text must be: `response_format`, or the arguments of a tool that must be called."""

from typing import Any

from jaxlm.decode.constrained import Compiled, JsonSchema
from jaxlm.errors import UserError
from jaxlm.serve import asked
from jaxlm.serve.errors import bad
from jaxlm.serve.state import Server


def compiled(server: Server, body: asked.Body) -> Compiled | None:
    """The constraint, compiled, which may take a while. Raises ApiError for a schema that cannot be kept to."""
    form = body.get("response_format")
    schema: Any = _of_tool(body)
    name = "tools"
    if form is not None:
        if not isinstance(form, dict) or form.get("type") not in ("text", "json_object", "json_schema"):
            raise bad('response_format: its type is "text", "json_object" or "json_schema"', "response_format")
        if form["type"] == "json_object":
            schema, name = {"type": "object"}, "response_format"
        if form["type"] == "json_schema":
            given = form.get("json_schema")
            if not isinstance(given, dict) or not isinstance(given.get("schema"), dict):
                raise bad('response_format: "json_schema": {"schema": {...}} is wanted', "response_format")
            schema, name = given["schema"], "response_format"
    if schema is None:
        return None
    if server.lm.tokenizer is None:
        raise bad("this model has no tokenizer, and so no JSON", name)
    try:
        return JsonSchema(schema).compile(server.lm.tokenizer, tuple(server.lm.stops) or None)
    except (UserError, RecursionError) as error:
        raise bad(f"the schema cannot be kept to: {error}", name) from None


def _of_tool(body: asked.Body) -> Any:
    """The schema of the arguments of the one tool that must be called."""
    choice, tools = body.get("tool_choice"), body.get("tools")
    listed = [tool.get("function") for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    functions = [function for function in listed if isinstance(function, dict)]
    if isinstance(choice, dict) and isinstance(choice.get("function"), dict):
        functions = [f for f in functions if f.get("name") == choice["function"].get("name")]
    elif choice != "required":
        return None
    return (functions[0].get("parameters") or {"type": "object"}) if len(functions) == 1 else None
