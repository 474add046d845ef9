"""Redaction: secrets and addresses are replaced, similar strings are not, and the rest of the text does not change."""

import random
import string
from pathlib import Path

import numpy as np
import pytest

from codellama_jax.config.curation import PLACEHOLDERS
from tasks.curation.clean.redaction import redact

RNG = random.Random(0)
LETTERS = string.ascii_letters + string.digits


def random_string(count: int, letters: str = LETTERS) -> str:
    """Random characters; the first ones are one of each kind."""
    kinds = (string.ascii_uppercase, string.ascii_lowercase, string.digits)
    first = [RNG.choice([letter for letter in kind if letter in letters] or letters) for kind in kinds]
    return "".join([*first, *RNG.choices(letters, k=count - 3)])


UPPER = string.ascii_uppercase + string.digits
HEX = "0123456789abcdef"
ISSUED_KEYS = {
    "amazon": f"AKIA{random_string(16, UPPER)}",
    "google": f"AIza{random_string(35)}",
    "google oauth": f"GOCSPX-{random_string(28)}",
    "azure": f"AccountKey={random_string(86)}==",
    "github": f"ghp_{random_string(36)}",
    "github, fine": f"github_pat_{random_string(22)}_{random_string(59)}",
    "gitlab": f"glpat-{random_string(20)}",
    "slack": f"xoxb-{RNG.randrange(10**11, 10**12)}-{RNG.randrange(10**11, 10**12)}-{random_string(24)}",
    "slack hook": "https://hooks.slack.com/services/"
    f"T{random_string(8, UPPER)}/B{random_string(8, UPPER)}/{random_string(24)}",
    "stripe": f"sk_live_{random_string(24)}",
    "openai": f"sk-{random_string(48)}",
    "openai, project": f"sk-proj-{random_string(60)}",
    "hugging face": f"hf_{random_string(34)}",
    "npm": f"npm_{random_string(36)}",
    "pypi": f"pypi-AgEIcHlwaS5vcmc{random_string(120)}",
    "sendgrid": f"SG.{random_string(22)}.{random_string(43)}",
    "digitalocean": f"dop_v1_{random_string(64, HEX)}",
    "telegram": f"{RNG.randrange(10**8, 10**9)}:AA{random_string(33)}",
    "json web token": f"eyJ{random_string(20)}.eyJ{random_string(40)}.{random_string(43)}",
}
BLOCK = (
    "-----BEGIN {0}PRIVATE KEY-----\n"
    + "\n".join(random_string(64) for _ in range(5))
    + "\n-----END {0}PRIVATE KEY-----"
)
ASSIGNED_KEYS = [
    ('api_key = "{}"', random_string(32)),
    ("'SECRET_KEY': '{}',", random_string(40, HEX)),
    ('const accessToken: string = `{}`;', random_string(24)),
    ('os.environ["AUTH_TOKEN"] = "{}"', random_string(20)),
    ("apiKey => '{}'", random_string(32)),
]  # fmt: skip
PASSWORDS = [
    ('password = "{}"', "hunter2!"),
    ("PASSWD='{}'", "tr0ub4dor&3"),
    ('{{"db_pwd": "{}"}}', "s0mething"),
    ("postgres://admin:{}@db.internal.org:5432/x", "Xy7pQ"),
    ("https://:{}@host/", "k3LmF"),
]
ADDRESSES = ["ann.lee+news@mail.university.edu", "x@y.de", "főo_1@Bar-Baz.co.uk", "JOE@COMPANY.COM"]
NOT_SECRETS = [
    *(
        "git@github.com:owner/name.git",
        "git clone ssh://git@host.org/x",
        "me@example.com",
        "a@b.example",
        "x@localhost",
    ),
    *("@decorator\n", "icon@2x.png", "a @ b.transpose(1)", "w@x.sum(", "user@host", "pkg@1.2.3", "<EMAIL>", "@a.b.com"),
    *("C = A@B.T", "import {x} from '@scope/pkg.js'", "foo@v1.2.js"),
    *('api_key = "YOUR_API_KEY_HERE_0123"', 'token = ""', 'token = "identifier"', "secret = 'a b c d 1 2 3 4 5 6'"),
    *(
        'password = "password"',
        'password = "changeme1"',
        "password=$PASSWORD",
        'passwd = "<password1>"',
        "pwd = os.getcwd()",
    ),
    *(
        'token == "Zm9vYmFyMTIzNDU2Nzg5"',
        'tokens = ["if", "else"]',
        "https://user:password@host.org/",
        "http://u:{}@h.org",
    ),
    *("AKIAIOSFODNN7EXAMPLE", "AKIA", "sk-learn-is-a-library-for-learning-machines", "hf_hub_download(repo)", "eyJ"),
    *("-----BEGIN PRIVATE KEY-----", "if '-----BEGIN RSA PRIVATE KEY-----' in text:\n    pass", "sha256:" + "0a" * 32),
    *(
        f"x = '{random_string(40, HEX)}'",
        "secret_token = 'aaaaaaaaaaaaaaaaaaaa1'",
        "token = get_token('name_of_the_token_1')",
    ),
]
FRAMES = ["{}", "# before\nx = 1\n{}\ny = 2\n", "\t// {} and more é\r\n", '"{}"', "<{}>", "({})."]


@pytest.mark.parametrize("frame", FRAMES)
def test_issued_keys_private_keys_and_addresses_are_replaced_in_any_context(frame: str):
    for secrets, kind in (
        (ISSUED_KEYS.values(), "key"),
        (ADDRESSES, "email"),
        (map(BLOCK.format, ["", "RSA "]), "private_key"),
    ):
        for secret in secrets:
            text, counts = redact(frame.format(secret))
            assert text == frame.format(PLACEHOLDERS[kind]), secret
            assert counts == {kind: 1}


@pytest.mark.parametrize("frame", FRAMES[:3])
def test_strings_assigned_to_secret_names_are_replaced(frame: str):
    for kind, cases in (("key", ASSIGNED_KEYS), ("password", PASSWORDS)):
        for line, secret in cases:
            text, counts = redact(frame.format(line.format(secret)))
            assert text == frame.format(line.format(PLACEHOLDERS[kind])), line
            assert counts == {kind: 1}


@pytest.mark.parametrize("text", NOT_SECRETS)
def test_strings_that_only_look_like_secrets_are_not_replaced(text: str):
    for frame in FRAMES:
        assert redact(frame.format(text)) == (frame.format(text), {})


def test_only_secrets_change_in_a_random_text(fuzzed):
    rng = np.random.default_rng(0)
    for _ in range(20):
        secrets = [*ISSUED_KEYS.values(), *ADDRESSES]
        RNG.shuffle(secrets)
        between = [fuzzed(rng, 300).replace("@", "") for _ in range(len(secrets) + 1)]
        between = [redact(text)[0] for text in between]
        text = between[0] + "".join(f"\n {secret} \n{rest}" for secret, rest in zip(secrets, between[1:], strict=True))
        clean, counts = redact(text)
        assert counts == {"key": len(ISSUED_KEYS), "email": len(ADDRESSES)}
        kinds = ["<EMAIL>" if secret in ADDRESSES else "<KEY>" for secret in secrets]
        assert clean == between[0] + "".join(
            f"\n {kind} \n{rest}" for kind, rest in zip(kinds, between[1:], strict=True)
        )
        assert redact(clean) == (clean, {})


def test_only_the_given_kinds_are_replaced():
    text = f"x@y.de {ISSUED_KEYS['github']} password='hunter2!'"
    assert redact(text, ("email",)) == (f"<EMAIL> {ISSUED_KEYS['github']} password='hunter2!'", {"email": 1})
    assert redact(text, ()) == (text, {})
    assert redact(text)[1] == {"email": 1, "key": 1, "password": 1}


def test_any_text_is_accepted():
    for text in ("", "@", "\ud800@\ud800.com", "İ" * 50 + "password = 'hunter2!'", "@" * 5_000, "a@" * 2_000 + "b.com"):
        assert isinstance(redact(text)[0], str)


def test_code_without_secrets_does_not_change():
    for module in (random, string):
        text = Path(module.__file__).read_text(encoding="utf-8")
        assert redact(text) == (text, {})
