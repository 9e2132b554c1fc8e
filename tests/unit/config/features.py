"""Features that the configuration tests pretend to have."""

from typing import Annotated

from msgspec import Meta, Struct

from antiphon.config.compose import Options


class Push(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Push notifications."""

    max_devices: Annotated[int, Meta(ge=1, description="Devices of a user.")] = 5
    title: Annotated[str, Meta(description="Shown.")] = "new message"

    def __post_init__(self) -> None:
        if self.title == "forbidden":
            raise ValueError("the title is forbidden")


class Register(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Accounts by their owners."""

    enabled: Annotated[bool, Meta(description="true opens it.")] = False


OPTIONS: Options = {"push": Push, "in-band": Register, "carbons": None}
