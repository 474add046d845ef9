"""Addresses of persons are found in prose, comments and strings; operands, labels, versions and remotes are not."""

import pytest

from tasks.curation.clean.comments_and_strings import CommentsAndStrings, has_infix_at
from tasks.curation.clean.redaction import redact
from tasks.curation.clean.top_level_domains import ALL, COUNTRIES, GENERIC, UNAMBIGUOUS

# Code that must not change: (language, text). The first two need no knowledge of the language.
CODE = [
    ("", "this.name = this@toRecord.name"),
    ("", "q = x@params.wq"),
    ("Kotlin", "this.name = this@toRecord.name"),
    ("Kotlin", 'log("${this@MainActivity.name} of ${super@Outer.id}")'),
    ("Kotlin", "list.forEach lit@{ if (it == 0) return@lit.to }"),
    ("Python", "q = x@params.wq\nk = x @ params.wk\nv = (x@self.to)@self.me + a@b.name"),
    ("Python", "pose = rotation@body.com\nreturn f(hidden@head.info, mask)"),
    ("Python", 'print(f"{q@head.id:.2f} {{}}")  # q@w.to is small'),
    ("Python", "@app.route('/')\n@pytest.mark.slow\ndef f(): ..."),
    ("Ruby", "@foo.name = @bar.info\n@@all.to_s"),
    ("Swift", "#selector(a.to)\n@objc.name @available(iOS 13.0, *)"),
    ("Perl", "push @list.name; print \"$user@host.com @{$x}\";"),
    ("CSS", "@media screen { } @font-face.name {}"),
    ("Scala", "case node@Tree.name => node\ncase e@Err.in => e"),
    ("Haskell", "f all@Map.name = g xs@(T.id)"),
    ("OCaml", "let all = first@second.name in rest@M.to"),
    ("Rust", "match n { id@Kind.is => 1, _ => 2 }"),
    ("R", "fit@frame.name <- object@meta.info\nx@w.id[1]"),
    ("SQL", "SELECT name FROM staff@remote.world WHERE id = 1"),
    ("Erlang", "net_adm:ping(worker@host.com)"),
    ("Assembly", "call printf@PLT.name\n.symver foo,foo@VERS.name"),
    ("C++", "a@b.c call x@plt.sec memcpy@GLIBC.x"),
    ("Java", "@Named.of @Inject(value.name) {@link Foo#bar}"),
    ("Julia", "Base.@time.id x"),
    ("Makefile", "a.o: a.c\n\tcc -o $@.tmp $<@x.com $(X)@y.com"),
    ("HTML", "<p>@Model.First@Model.info</p>"),
    ("Java", "@Autowired@Qualifier.is"),
    ("Python", "# y = x@w.com\n'''\nq@k.ch + 1\n'''"),
    ("", "@joe@corp.com joe@corp.py_ jdbc:oracle:thin:scott/x@db.corp.com:1521:orcl db@db.corp.com:5432/x"),
    ("", "npm i package@1.2.x lodash@4.17.io react@16.8.dev vite@v5.sh pkg@2.app @scope/name@1.0.0"),
    ("", "icon@2x.tv logo@3x.ai icon@2x.png"),
    ("", "git clone git@github.com:org/repo.git && git clone joe@srv.corp.com:work/x.git"),
    ("Shell", "ssh -p 22 joe@srv.corp.com ls\nscp a.txt joe@srv.corp.com:/tmp\nrsync joe@srv.corp.com:~/x ."),
    ("Shell", "rsync -a x joe@srv.corp.com:y"),
    ("", "ssh://joe@srv.corp.com/x svn+ssh://joe@srv.corp.com sftp joe@srv.corp.com"),
    ("", r"^\w+@corp.com$ [\w.]+@corp.com"),
    ("C", 'printf("%s@corp.com %d@corp.com", name, id);'),
    ("JavaScript", "`${user}@corp.com`; '#{user}@corp.com'; `${a@b.com}`"),
    ("", "joe@corp.data joe@corp.zz joe@corp.py_ joe@w.to.T joe@self.me.w1"),
    ("Python", r's = "\x01Z@golang.org/genproto/api" + "\001Z@golang.org/genproto/api"'),
]  # fmt: skip

# Text with a person's address, written {}: (language, text).
TEXT = [
    ("", "Joe Doe <{}>, {}, and ({})."),
    ("", "- {}\n* {}\nmailto:{} [mail](mailto:{})"),
    ("", "Joe|{}|42\n{}:hunter2\n{};{}"),
    ("Python", "# Author: {}\n__email__ = '{}'\n\"\"\"Doc.\n\nContact: {}\n\"\"\"\ny = f'{{x}} {}'"),
    ("Python", "x = a@b.name  # ask {}\ns = \"it's {}\"\nt = '\\'{}'"),
    ("Kotlin", '/** By {}. */\nval a = "${{x}} {}" // {}\nval b = """\n{}\n"""'),
    ("Scala", 'val a = "{}" /* {} */'),
    ("Rust", "// {}\nfn f<'a>(x: &'a str) {{ g(\"{}\", r#\"{}\"#) }} /* {} */"),
    ("R", "#' @author {}\nx <- c('{}', \"{}\")"),
    ("Haskell", "-- {}\n{{- {} -}}\nfoldl' = \"{}\""),
    ("OCaml", "(* {} *)\nlet x : 'a = \"{}\""),
    ("SQL", "-- {}\nINSERT INTO t VALUES ('it''s {}'); /* {} */"),
    ("Erlang", "%% @author {}\n-author('{}').\nx() -> \"{}\"."),
    ("JavaScript", "// {}\nconst a = <p>Write to {}</p>; // '{}' `{}`"),
    ("Shell", "git config user.email {}\nEMAIL={}\nmail -s hello {} <<END\nDear {}\nEND"),
    ("YAML", "author: {}\nmaintainers:\n  - {}\nemail: '{}'"),
    ("C", 'puts("hello\\n{}\\t{}"); /* {} */'),
    ("Perl", 'print "mail {} now"; # {}'),
    ("Assembly", "# {}\n.ascii \"{}\\n\" ; {}"),
    ("", "请联系{}。メール：{}、전화{} ติดต่อ{}"),
    ("JavaScript", '"\\u003c{}\\u003e"'),
    ("Perl", "=head1 AUTHOR\n\nJoe Doe E<lt>{}E<gt>, C<{}>"),
    ("", "<a href=\"/users/{}/\">Joe</a>"),
    ("Markdown", "_{}_ __{}__ **{}** [me]({})"),
]  # fmt: skip
ADDRESSES = [
    "anna.lee+news@mail.university.edu",
    "joe@corp.com",
    "x_1@bar-baz.co.uk",
    "ann@foo.it",
    "joe@163.com",
    "list-+@corp.com",
]


@pytest.mark.parametrize("language, text", CODE)
def test_code_is_not_an_address(language: str, text: str):
    assert redact(text, language=language) == (text, {})


@pytest.mark.parametrize("language, text", TEXT)
def test_addresses_in_prose_comments_and_strings_are_replaced(language: str, text: str):
    count = text.count("{}")
    for address in ADDRESSES:
        clean, counts = redact(text.format(*[address] * count), language=language)
        assert clean == text.format(*["<EMAIL>"] * count)
        assert counts == {"email": count}


def test_an_escaped_or_international_address_is_replaced():
    assert redact('$m = "joe\\@corp.com";', language="Perl") == ('$m = "<EMAIL>";', {"email": 1})
    for address in ("张三@corp.cn", "josé.pérez@corp.es", "иван@corp.ru"):
        assert redact(f"# {address}", language="Python") == ("# <EMAIL>", {"email": 1})


def test_a_short_name_in_a_comment_is_that_of_a_person_where_the_text_says_so():
    for text in ("# Joe <me@joe.me>", '"""Doc.\n\n:author: me@joe.me\n"""', "# Maintainer : jo@joe.io"):
        assert redact(text, language="Python")[1] == {"email": 1}, text
    for text in ("# y = x@w.to", "# the product q@k.me is small", '"""Returns a@b.io."""'):
        assert redact(text, language="Python") == (text, {})


def test_an_assigned_address_is_replaced_where_its_name_or_domain_says_so():
    for text in ("email = joe@foo.it", "to: joe@foo.name", "owner=joe@foo.info", "x = joe@corp.com", "x = j-d@foo.it"):
        assert redact(text)[1] == {"email": 1}, text
    for text in ("y = joe@foo.it", "return joe@foo.name", "y = z + joe@foo.info", "joe@foo.is * 2", "f(joe@foo.to)"):
        assert redact(text) == (text, {})


def test_top_level_domains_are_those_of_the_registry():
    assert len(COUNTRIES) == 248 and {len(name) for name in COUNTRIES} == {2}
    assert not COUNTRIES & GENERIC and UNAMBIGUOUS < ALL
    assert not {"js", "ts", "hs", "jl", "kt", "wq", "data", "html", "json", "zip"} & ALL


@pytest.mark.parametrize("language", ["Python", "Kotlin", "Rust", "R", "Haskell", "OCaml", "Erlang", "SQL"])
def test_comments_and_strings_that_do_not_end_are_accepted(language: str):
    assert has_infix_at(language) and not has_infix_at("JavaScript") and not has_infix_at("")
    for text in ("", "'", '"', '"""', "'''", "/*", "{-", "(*", 'r#"', "\\", '"\\', "#", "--", "%", "\ud800" * 3):
        for full in (text, text + " a@b.com", text * 2_000 + "\n"):
            places = CommentsAndStrings(full, language)
            assert places.at(-1) is None or full
            redact(full, language=language)


def test_names_that_only_contain_a_word_for_a_secret_are_not_secrets():
    value = "distilbert-base-uncased-2-english"
    for name in (
        "TOKENIZER_NAME",
        "tokenizer",
        "tokenization",
        "token_url",
        "tokenPath",
        "SECRET_NAMES",
        "apiKeyHeader",
    ):
        text = f'{name} = "{value}"'
        assert redact(text) == (text, {}), name
    for name in ("token", "API_TOKEN", "secretKey", "token_profile", "access_key_id"):
        assert redact(f'{name} = "{value}"')[1] == {"key": 1}, name
    for name in ("password", "userPassword", "PASSWD"):
        assert redact(f'{name} = "hunter2!"')[1] == {"password": 1}, name
    assert redact('password_field = "hunter2!"')[1] == {}
