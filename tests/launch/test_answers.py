"""The kinds of failures of gcloud and kubectl, from their messages."""

import pytest

from launch.answers import Answer, can_change, classify, is_connection_failure
from launch.command import Result

GCLOUD = "ERROR: (gcloud.compute.tpus.queued-resources.create) "
KUBECTL = 'Error from server ({}): error when creating "STDIN": '
MESSAGES = {
    Answer.TEMPORARY: (
        GCLOUD + "UNAVAILABLE: The service is currently unavailable.",
        GCLOUD + "HttpError accessing <https://tpu.googleapis.com/v2/x>: response: <{'status': '502'}>, content <Bad>",
        GCLOUD + '{"code": 14, "message": "Please wait"}',
        GCLOUD + "RESOURCE_EXHAUSTED: Quota exceeded for quota metric 'Requests' and limit 'Requests per minute'",
        GCLOUD + "HTTPSConnectionPool(host='tpu.googleapis.com', port=443): Max retries exceeded with url: /v2",
        "ERROR: gcloud crashed (ServerNotFoundError): Unable to find the server at tpu.googleapis.com",
        "socket.gaierror: [Errno -3] Temporary failure in name resolution",
        "ssl.SSLEOFError: EOF occurred in violation of protocol",
        KUBECTL.format("InternalError") + 'Internal error occurred: failed calling webhook "mjobset.kb.io": failed to'
        " call webhook: Post https://x: context deadline exceeded",
        KUBECTL.format("InternalError") + "failed calling webhook: no endpoints available for service",
        "Error from server (ServiceUnavailable): the server is currently unable to handle the request",
        "Error from server (TooManyRequests): the server has received too many requests",
        "Error from server (Timeout): etcdserver: request timed out",
        "Unable to connect to the server: dial tcp 1.2.3.4:443: i/o timeout",
        "Unable to connect to the server: net/http: TLS handshake timeout",
        GCLOUD + "Deadline expired before operation could complete.",
        GCLOUD + "CANCELLED: The operation was cancelled.",
        "etcdserver: leader changed",
        "The connection to the server 1.2.3.4 was refused - did you specify the right host or port? connection refused",
    ),
    Answer.EXISTS: (
        GCLOUD + "ALREADY_EXISTS: Resource 'projects/p/locations/z/queuedResources/x' already exists",
        GCLOUD + "HttpError 409: Conflict",
        KUBECTL.format("AlreadyExists") + 'object is being deleted: jobsets.jobset.x-k8s.io "x" already exists',
    ),
    Answer.EXHAUSTED: (
        GCLOUD + "RESOURCE_EXHAUSTED: Quota limit 'TPUS' has been exceeded. Limit: 256 in zone us-east5-a.",
        GCLOUD + '{"code": 8, "message": "There is no more capacity in the zone \\"us-east5-a\\""}',
        "Quota limit 'TPUS' has been exceeded. Limit: 0.5 in region us-east5.",
        KUBECTL.format("Forbidden") + 'jobsets "x" is forbidden: exceeded quota: team, requested: count/jobsets=1',
    ),
    Answer.CREDENTIALS: (
        GCLOUD + "There was a problem refreshing your current auth tokens: ('invalid_grant: Bad Request', {})",
        GCLOUD + "Reauthentication failed. cannot prompt during non-interactive execution.",
        GCLOUD + "Your current active account [me] does not have any valid credentials",
        GCLOUD + "UNAUTHENTICATED: Request had invalid authentication credentials.",
        GCLOUD + "You do not currently have an active account selected.",
        "Unable to connect to the server: x509: certificate has expired or is not yet valid",
        "error: You must be logged in to the server (Unauthorized)",
        "Unable to connect to the server: getting credentials: exec: executable gke-gcloud-auth-plugin failed",
    ),
    Answer.NOT_FOUND: (
        GCLOUD + "NOT_FOUND: Location us-east9-z is not found or access is unauthorized",
        'Error from server (NotFound): jobsets.jobset.x-k8s.io "x" not found',
    ),
    Answer.PERMANENT: (
        GCLOUD + "PERMISSION_DENIED: Cloud TPU API has not been used in project 1 before or it is disabled.",
        GCLOUD + "INVALID_ARGUMENT: Accelerator type v5p-127 is invalid",
        GCLOUD + "RESOURCE_EXHAUSTED: Quota limit 'TPUS' has been exceeded. Limit: 0 in zone us-east5-a.",
        GCLOUD + "Quota exceeded.\nlimit: 0.0",
        GCLOUD + "HttpError accessing <https://x>: response: <{'status': '403'}>, content <{}>",
        GCLOUD + "Cloud TPU received a bad request. Accelerator type v5p-13 is not supported in zone",
        GCLOUD + "Unknown zone: us-foo",
        GCLOUD + "FAILED_PRECONDITION: Constraint constraints/gcp.resourceLocations violated for projects/p",
        GCLOUD + "FAILED_PRECONDITION: Billing is disabled for project p",
        GCLOUD + "The user does not have access to service account 'x'. Ask for the iam.serviceAccountUser role",
        'error: the server doesn\'t have a resource type "jobset"',
        "ERROR: (gcloud) unrecognized arguments: --metadate",
        KUBECTL.format("Forbidden") + 'jobsets is forbidden: User "me" cannot create resource',
        'admission webhook "vjobset.kb.io" denied the request: the underlying pod name is too long',
        'error: resource mapping not found: no matches for kind "JobSet" in version "jobset.x-k8s.io/v1alpha2"',
    ),
    Answer.UNKNOWN: ("ERROR: gcloud crashed (KeyError): 'x'", ""),
}


@pytest.mark.parametrize(
    ("answer", "message"), [(answer, text) for answer, texts in MESSAGES.items() for text in texts], ids=str
)
def test_kind_of_a_failure(answer, message):
    assert classify(message) is answer


def test_retried_before_and_after_the_first_success():
    assert {answer for answer in Answer if can_change(answer, first=True)} == {Answer.TEMPORARY}
    assert {answer for answer in Answer if not can_change(answer, first=False)} == {Answer.NOT_FOUND, Answer.PERMANENT}


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (255, "", True),
        (1, "scp: Connection closed", True),
        (1, "ERROR: (gcloud.compute.tpus.tpu-vm.scp) UNAVAILABLE: try again", True),
        (1, "ERROR: (gcloud.compute.tpus.tpu-vm.ssh) Could not SSH: exit code 4", False),
        (127, "env: no such file", False),
        (1, "error: no space left on device", False),
    ],
)
def test_connection_failures(code, message, expected):
    assert is_connection_failure(code, message) is expected


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("WARNING: slow\nERROR: (gcloud.x) denied\nmore\n", "(gcloud.x) denied"),
        (
            'E1128 13:22:32.2 19308 memcache.go:265] "Unhandled Error"\nThe connection was refused\n',
            "The connection was refused",
        ),
        ("E1128 13:22:32.2 19308 memcache.go:265] last\n", "E1128 13:22:32.2 19308 memcache.go:265] last"),
        ("", "exit code 1"),
    ],
)
def test_reason_is_the_line_that_names_the_cause(stderr, reason):
    assert Result(1, b"", stderr).reason == reason
