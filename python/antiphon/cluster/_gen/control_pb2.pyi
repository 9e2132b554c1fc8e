from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HealthRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HealthReply(_message.Message):
    __slots__ = ("node", "incarnation", "version", "state", "is_ready")
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    IS_READY_FIELD_NUMBER: _ClassVar[int]
    node: str
    incarnation: int
    version: str
    state: str
    is_ready: bool
    def __init__(self, node: _Optional[str] = ..., incarnation: _Optional[int] = ..., version: _Optional[str] = ..., state: _Optional[str] = ..., is_ready: _Optional[bool] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("node", "document")
    NODE_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    node: str
    document: str
    def __init__(self, node: _Optional[str] = ..., document: _Optional[str] = ...) -> None: ...

class SessionsRequest(_message.Message):
    __slots__ = ("jid",)
    JID_FIELD_NUMBER: _ClassVar[int]
    jid: str
    def __init__(self, jid: _Optional[str] = ...) -> None: ...

class SessionsReply(_message.Message):
    __slots__ = ("sessions", "home")
    class Session(_message.Message):
        __slots__ = ("jid", "priority", "show", "has_carbons")
        JID_FIELD_NUMBER: _ClassVar[int]
        PRIORITY_FIELD_NUMBER: _ClassVar[int]
        SHOW_FIELD_NUMBER: _ClassVar[int]
        HAS_CARBONS_FIELD_NUMBER: _ClassVar[int]
        jid: str
        priority: int
        show: str
        has_carbons: bool
        def __init__(self, jid: _Optional[str] = ..., priority: _Optional[int] = ..., show: _Optional[str] = ..., has_carbons: _Optional[bool] = ...) -> None: ...
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    HOME_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[SessionsReply.Session]
    home: str
    def __init__(self, sessions: _Optional[_Iterable[_Union[SessionsReply.Session, _Mapping]]] = ..., home: _Optional[str] = ...) -> None: ...

class KickRequest(_message.Message):
    __slots__ = ("jid",)
    JID_FIELD_NUMBER: _ClassVar[int]
    jid: str
    def __init__(self, jid: _Optional[str] = ...) -> None: ...

class KickReply(_message.Message):
    __slots__ = ("ended",)
    ENDED_FIELD_NUMBER: _ClassVar[int]
    ended: int
    def __init__(self, ended: _Optional[int] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DrainReply(_message.Message):
    __slots__ = ("was_draining",)
    WAS_DRAINING_FIELD_NUMBER: _ClassVar[int]
    was_draining: bool
    def __init__(self, was_draining: _Optional[bool] = ...) -> None: ...

class RebalanceRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RebalanceReply(_message.Message):
    __slots__ = ("moving", "least", "most", "is_waiting")
    MOVING_FIELD_NUMBER: _ClassVar[int]
    LEAST_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    IS_WAITING_FIELD_NUMBER: _ClassVar[int]
    moving: int
    least: int
    most: int
    is_waiting: bool
    def __init__(self, moving: _Optional[int] = ..., least: _Optional[int] = ..., most: _Optional[int] = ..., is_waiting: _Optional[bool] = ...) -> None: ...

class StayRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StayReply(_message.Message):
    __slots__ = ("was_draining",)
    WAS_DRAINING_FIELD_NUMBER: _ClassVar[int]
    was_draining: bool
    def __init__(self, was_draining: _Optional[bool] = ...) -> None: ...

class ReloadRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReloadReply(_message.Message):
    __slots__ = ("is_taken", "problems")
    IS_TAKEN_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    is_taken: bool
    problems: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, is_taken: _Optional[bool] = ..., problems: _Optional[_Iterable[str]] = ...) -> None: ...

class SetLogLevelRequest(_message.Message):
    __slots__ = ("level",)
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    level: str
    def __init__(self, level: _Optional[str] = ...) -> None: ...

class SetLogLevelReply(_message.Message):
    __slots__ = ("was",)
    WAS_FIELD_NUMBER: _ClassVar[int]
    was: str
    def __init__(self, was: _Optional[str] = ...) -> None: ...

class RunRequest(_message.Message):
    __slots__ = ("command", "arguments")
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    command: str
    arguments: str
    def __init__(self, command: _Optional[str] = ..., arguments: _Optional[str] = ...) -> None: ...

class RunReply(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: str
    def __init__(self, result: _Optional[str] = ...) -> None: ...

class CallRequest(_message.Message):
    __slots__ = ("operation", "arguments")
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    operation: str
    arguments: bytes
    def __init__(self, operation: _Optional[str] = ..., arguments: _Optional[bytes] = ...) -> None: ...

class CallReply(_message.Message):
    __slots__ = ("value",)
    VALUE_FIELD_NUMBER: _ClassVar[int]
    value: bytes
    def __init__(self, value: _Optional[bytes] = ...) -> None: ...
