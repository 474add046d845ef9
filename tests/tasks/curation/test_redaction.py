"""Redaction: secrets and addresses go, what only looks like them stays, and the rest of the text is as it was."""

import random
import string
from pathlib import Path

import numpy as np
import pytest

from codellama_jax.config.curation import PLACEHOLDERS
from tasks.curation.clean.redaction import redacted

RNG = random.Random(0)
LETTERS = string.ascii_letters + string.digits


def drawn(count: int, letters: str = LETTERS) -> str:
    """Random letters, one of each kind of them first."""
    kinds = (string.ascii_uppercase, string.ascii_lowercase, string.digits)
    first = [RNG.choice([letter for letter in kind if letter in letters] or letters) for kind in kinds]
    return "".join([*first, *RNG.choices(letters, k=count - 3)])


UPPER = string.ascii_uppercase + string.digits
HEX = "0123456789abcdef"
ISSUED = {
    "amazon": f"AKIA{drawn(16, UPPER)}",
    "google": f"AIza{drawn(35)}",
    "google oauth": f"GOCSPX-{drawn(28)}",
    "azure": f"AccountKey={drawn(86)}==",
    "github": f"ghp_{drawn(36)}",
    "github, fine": f"github_pat_{drawn(22)}_{drawn(59)}",
    "gitlab": f"glpat-{drawn(20)}",
    "slack": f"xoxb-{RNG.randrange(10**11, 10**12)}-{RNG.randrange(10**11, 10**12)}-{drawn(24)}",
    "slack hook": f"https://hooks.slack.com/services/T{drawn(8, UPPER)}/B{drawn(8, UPPER)}/{drawn(24)}",
    "stripe": f"sk_live_{drawn(24)}",
    "openai": f"sk-{drawn(48)}",
    "openai, project": f"sk-proj-{drawn(60)}",
    "hugging face": f"hf_{drawn(34)}",
    "npm": f"npm_{drawn(36)}",
    "pypi": f"pypi-AgEIcHlwaS5vcmc{drawn(120)}",
    "sendgrid": f"SG.{drawn(22)}.{drawn(43)}",
    "digitalocean": f"dop_v1_{drawn(64, HEX)}",
    "telegram": f"{RNG.randrange(10**8, 10**9)}:AA{drawn(33)}",
    "json web token": f"eyJ{drawn(20)}.eyJ{drawn(40)}.{drawn(43)}",
}
BLOCK = "-----BEGIN {0}PRIVATE KEY-----\n" + "\n".join(drawn(64) for _ in range(5)) + "\n-----END {0}PRIVATE KEY-----"
GIVEN = [
    ('api_key = "{}"', drawn(32)),
    ("'SECRET_KEY': '{}',", drawn(40, HEX)),
    ('const accessToken: string = `{}`;', drawn(24)),
    ('os.environ["AUTH_TOKEN"] = "{}"', drawn(20)),
    ("apiKey => '{}'", drawn(32)),
]  # fmt: skip
PASSWORDS = [
    ('password = "{}"', "hunter2!"),
    ("PASSWD='{}'", "tr0ub4dor&3"),
    ('{{"db_pwd": "{}"}}', "s0mething"),
    ("postgres://admin:{}@db.internal.org:5432/x", "Xy7pQ"),
    ("https://:{}@host/", "k3LmF"),
]
ADDRESSES = ["ann.lee+news@mail.university.edu", "x@y.de", "főo_1@Bar-Baz.co.uk", "JOE@COMPANY.COM"]
NO_SECRETS = [
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
    *(f"x = '{drawn(40, HEX)}'", "secret_token = 'aaaaaaaaaaaaaaaaaaaa1'", "token = get_token('name_of_the_token_1')"),
]
FRAMES = ["{}", "# before\nx = 1\n{}\ny = 2\n", "\t// {} and more é\r\n", '"{}"', "<{}>", "({})."]


@pytest.mark.parametrize("frame", FRAMES)
def test_what_services_issue_and_addresses_go_wherever_they_stand(frame: str):
    for secrets, kind in (
        (ISSUED.values(), "key"),
        (ADDRESSES, "email"),
        (map(BLOCK.format, ["", "RSA "]), "private_key"),
    ):
        for secret in secrets:
            text, counts = redacted(frame.format(secret))
            assert text == frame.format(PLACEHOLDERS[kind]), secret
            assert counts == {kind: 1}


@pytest.mark.parametrize("frame", FRAMES[:3])
def test_strings_that_are_given_to_secret_names_go(frame: str):
    for kind, cases in (("key", GIVEN), ("password", PASSWORDS)):
        for line, secret in cases:
            text, counts = redacted(frame.format(line.format(secret)))
            assert text == frame.format(line.format(PLACEHOLDERS[kind])), line
            assert counts == {kind: 1}


@pytest.mark.parametrize("text", NO_SECRETS)
def test_what_only_looks_like_a_secret_stays(text: str):
    for frame in FRAMES:
        assert redacted(frame.format(text)) == (frame.format(text), {})


def test_all_of_a_text_is_redacted_and_nothing_else_changed(fuzzed):
    rng = np.random.default_rng(0)
    for _ in range(20):
        secrets = [*ISSUED.values(), *ADDRESSES]
        RNG.shuffle(secrets)
        between = [fuzzed(rng, 300).replace("@", "") for _ in range(len(secrets) + 1)]
        between = [redacted(text)[0] for text in between]
        text = between[0] + "".join(f"\n {secret} \n{rest}" for secret, rest in zip(secrets, between[1:], strict=True))
        clean, counts = redacted(text)
        assert counts == {"key": len(ISSUED), "email": len(ADDRESSES)}
        kinds = ["<EMAIL>" if secret in ADDRESSES else "<KEY>" for secret in secrets]
        assert clean == between[0] + "".join(
            f"\n {kind} \n{rest}" for kind, rest in zip(kinds, between[1:], strict=True)
        )
        assert redacted(clean) == (clean, {})


def test_kinds_can_be_chosen():
    text = f"x@y.de {ISSUED['github']} password='hunter2!'"
    assert redacted(text, ("email",)) == (f"<EMAIL> {ISSUED['github']} password='hunter2!'", {"email": 1})
    assert redacted(text, ()) == (text, {})
    assert redacted(text)[1] == {"email": 1, "key": 1, "password": 1}


def test_texts_of_any_kind_are_taken():
    for text in ("", "@", "\ud800@\ud800.com", "İ" * 50 + "password = 'hunter2!'", "@" * 5_000, "a@" * 2_000 + "b.com"):
        assert isinstance(redacted(text)[0], str)


def test_code_is_left_alone():
    """Of modules without addresses nothing is replaced."""
    for module in (random, string):
        text = Path(module.__file__).read_text(encoding="utf-8")
        assert redacted(text) == (text, {})
