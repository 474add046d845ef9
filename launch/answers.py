"""What the error messages of gcloud and kubectl mean for the launcher: whether a later try can succeed.

The messages contain a status of Google's APIs (https://cloud.google.com/apis/design/errors), its number in a failed
operation, an HTTP status, or a reason of the Kubernetes API. Other errors are recognised by their text.
"""

import enum
import re


class Answer(enum.Enum):
    """The kinds of failures."""

    TEMPORARY = "the service or the network does not answer at the moment"
    EXISTS = "a resource with this name exists"
    EXHAUSTED = "no capacity, or the quota is used up at the moment"
    CREDENTIALS = "the credentials have expired or cannot be refreshed"
    NOT_FOUND = "there is no such resource, zone or type"
    PERMANENT = "the same request will fail again"
    UNKNOWN = "not recognised"


# The first pattern that matches decides. Messages with several statuses quote what a nested request answered.
_TEXTS = (
    (Answer.PERMANENT, r"denied the request|error validating data|no matches for kind|unrecognized arguments"),
    (Answer.PERMANENT, r"received a bad request|not supported in|unknown zone|does not have access to"),
    (Answer.PERMANENT, r"constraint constraints/|billing is disabled|doesn't have a resource type"),
    (Answer.TEMPORARY, r"failed (?:to call|calling) webhook|per ?minute|rate.?limit|too many requests|TooManyRequests"),
    (Answer.PERMANENT, r"(?i:quota|resource.exhausted)[^\n]*\n?[^\n]*\blimit\b['\"]?[:=]? *0(?:\.0+)?(?!\.?\d)"),
    (Answer.PERMANENT, r"quota_limit_value['\"]*[:=] *['\"]*0\b"),
    (Answer.CREDENTIALS, r"invalid_grant|re-?authenticat|refreshing your current auth|gcloud auth login|valid cred"),
    (Answer.CREDENTIALS, r"UNAUTHENTICATED|must be logged in|\(Unauthorized\)|authentication credential"),
    (Answer.CREDENTIALS, r"token (?:has |is )?expired|getting credentials:|have an active account|x509:"),
    (Answer.EXHAUSTED, r"no more capacity|not enough (?:resources|capacity)|out of capacity|stockout|POOL_EXHAUSTED"),
    (Answer.EXHAUSTED, r"exceeded quota|quota[^\n]*exceeded|insufficient[^\n]*quota"),
)
_STATUSES = {
    "UNAVAILABLE": Answer.TEMPORARY,
    "INTERNAL": Answer.TEMPORARY,
    "DEADLINE_EXCEEDED": Answer.TEMPORARY,
    "ABORTED": Answer.TEMPORARY,
    "CANCELLED": Answer.TEMPORARY,
    "ALREADY_EXISTS": Answer.EXISTS,
    "RESOURCE_EXHAUSTED": Answer.EXHAUSTED,
    "NOT_FOUND": Answer.NOT_FOUND,
    "PERMISSION_DENIED": Answer.PERMANENT,
    "INVALID_ARGUMENT": Answer.PERMANENT,
    "UNIMPLEMENTED": Answer.PERMANENT,
    "OUT_OF_RANGE": Answer.PERMANENT,
    # reasons of the Kubernetes API
    "(ServiceUnavailable)": Answer.TEMPORARY,
    "(InternalError)": Answer.TEMPORARY,
    "(ServerTimeout)": Answer.TEMPORARY,
    "(Timeout)": Answer.TEMPORARY,
    "(Conflict)": Answer.TEMPORARY,
    "(AlreadyExists)": Answer.EXISTS,
    "(NotFound)": Answer.NOT_FOUND,
    "(Forbidden)": Answer.PERMANENT,
    "(Invalid)": Answer.PERMANENT,
    "(BadRequest)": Answer.PERMANENT,
}
_OPERATION_CODES = {  # google.rpc.Code: "code": 8 in the error of a failed operation
    **{3: Answer.PERMANENT, 4: Answer.TEMPORARY, 5: Answer.NOT_FOUND, 6: Answer.EXISTS, 7: Answer.PERMANENT},
    **{8: Answer.EXHAUSTED, 10: Answer.TEMPORARY, 12: Answer.PERMANENT, 13: Answer.TEMPORARY, 14: Answer.TEMPORARY},
    16: Answer.CREDENTIALS,
}
_HTTP_CODES = {
    **{400: Answer.PERMANENT, 401: Answer.CREDENTIALS, 403: Answer.PERMANENT, 404: Answer.NOT_FOUND},
    **{408: Answer.TEMPORARY, 409: Answer.EXISTS, 429: Answer.TEMPORARY},
}
_STATUS = re.compile("|".join(rf"\b{name}\b" if name[0] != "(" else re.escape(name) for name in _STATUSES))
_HTTP_CODE = re.compile(r"(?:code|status|http|error)[a-z]*['\"]?(?: code)?[:=(< \[]*['\"]?([45]\d\d)\b", re.IGNORECASE)
_OPERATION_CODE = re.compile(r"['\"]code['\"]: *(\d{1,2})\b")
_LAST_TEXTS = (
    (Answer.EXISTS, r"already exists"),
    (Answer.NOT_FOUND, r"(?:was|were|is)? ?not found|does not exist"),
    (Answer.PERMANENT, r"permission|forbidden|not authorized|invalid"),
    (Answer.TEMPORARY, r"unavailable|internal error|server error|bad gateway|deadline (?:exceeded|expired)"),
    (
        Answer.TEMPORARY,
        r"connection (?:refused|reset|aborted|closed|error)|broken pipe|unable to (?:connect|find|reach)",
    ),
    (Answer.TEMPORARY, r"name resolution|could not resolve|no such host|network|unreachable|\beof\b|ssl|max retries"),
    (
        Answer.TEMPORARY,
        r"the server is currently unable|tim(?:ed|e) ?out|etcdserver|overload|try again|lost connection",
    ),
)

# ssh could not connect, or lost the connection: the remote command may not have run.
_UNREACHABLE = re.compile(
    r"(?i:return code \[255\]|exit (?:code|status) 255|connection (?:refused|timed out|reset|closed)|lost connection"
    r"|operation timed out|no route to host|broken pipe|kex_exchange|could not resolve|network is unreachable"
    r"|permission denied \(publickey|host key verification)"
)
# An installation fails in the same way on another host.
_CANNOT_INSTALL = re.compile(
    r"(?i:no space left|disk quota|no matching distribution|no solution found|invalid requirement|hash(?:es)? mismatch"
    r"|requires-python)"
)
SSH_FAILED = 255  # exit code of ssh if the connection failed, rather than the remote command


def classify(message: str) -> Answer:
    """The kind of a failure, from what gcloud or kubectl wrote to stderr."""
    for answer, pattern in _TEXTS:
        if re.search(pattern, message, re.IGNORECASE):
            return answer
    if found := _STATUS.search(message):
        return _STATUSES[found[0]]
    for code in map(int, _HTTP_CODE.findall(message)):
        if code >= 500 or code in _HTTP_CODES:
            return _HTTP_CODES.get(code, Answer.TEMPORARY)
    for code in map(int, _OPERATION_CODE.findall(message)):
        if code in _OPERATION_CODES:
            return _OPERATION_CODES[code]
    return next(
        (answer for answer, pattern in _LAST_TEXTS if re.search(pattern, message, re.IGNORECASE)), Answer.UNKNOWN
    )


def can_change(answer: Answer, *, first: bool) -> bool:
    """Whether a later try of the same request can succeed without a change by the user.

    Args:
        answer: the kind of the failure.
        first: nothing has succeeded yet. Then only a temporary failure is one: the user is present, and sees the cause
            of any other failure at once.
    """
    return answer is Answer.TEMPORARY if first else answer not in (Answer.PERMANENT, Answer.NOT_FOUND)


def is_connection_failure(code: int, message: str) -> bool:
    """Whether a remote command failed because its host or the cloud's API could not be reached."""
    return (
        code == SSH_FAILED
        or bool(_UNREACHABLE.search(message))
        or ("gcloud." in message and classify(message) in (Answer.TEMPORARY, Answer.CREDENTIALS))
    )


def cannot_be_installed(message: str) -> bool:
    """Whether the installation of the packages would fail in the same way again."""
    return bool(_CANNOT_INSTALL.search(message))
