"""The JSON schema (draft 2020-12) of the configuration file: what pydantic says of the models in ``keys``."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import WithDefaultSchema

from rsock_nf.config.keys import ROLES, ClientKeys, Keys, ServerKeys
from rsock_nf.core.types import PortRange

_SCHEMA_KEY: Final = {"type": "string", "description": "Where this schema is, for editors; rsock-nf ignores it."}


def schema() -> dict[str, Any]:
    """The whole schema."""
    either: TypeAdapter[Any] = TypeAdapter(Annotated[ServerKeys | ClientKeys, Field(discriminator="role")])
    found = either.json_schema(schema_generator=_Schema)
    for model in ROLES.values():
        found["$defs"][model.__name__]["properties"]["$schema"] = _SCHEMA_KEY
    return {"$schema": _Schema.schema_dialect, "title": "rsock-nf", **found}


def schema_of(model: type[Keys]) -> dict[str, Any]:
    """The schema of one object of the file."""
    return model.model_json_schema(schema_generator=_Schema)


class _Schema(GenerateJsonSchema):
    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        """Without a default that no file can give: None, an empty list, an empty secret."""
        if schema.get("default") in (None, (), b""):
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)

    def encode_default(self, dft: Any) -> Any:
        """A default as the file would give it."""
        if isinstance(dft, tuple) and all(isinstance(item, PortRange) for item in dft):
            return ",".join(map(str, dft))
        return super().encode_default(dft)
