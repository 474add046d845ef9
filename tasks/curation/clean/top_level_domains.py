"""Top-level domains in which people have e-mail addresses.

Country codes are those of ISO 3166 that are delegated and in use, with ac, eu, su, uk, and an, tp, yu of the past.
Of the generic domains, only those that have been in wide use are listed: each of the others (there are over a thousand)
is more often the name of an attribute or a file extension in code than the end of an address.
"""


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


# The second letters by the first.
_COUNTRIES = """
    a:cdefgilmnoqrstuwxz b:abdefghijmnorstwyz c:acdfghiklmnoruvwxyz d:ejkmoz e:cegrstu f:ijkmor g:adefghilmnpqrstuwy
    h:kmnrtu i:delmnoqrst j:emop k:eghimnprwyz l:abcikrstuvy m:acdeghklmnopqrstuvwxyz n:acefgilopruz o:m
    p:aefghklmnrstwy q:a r:eosuw s:abcdeghiklmnorstuvxyz t:cdfghjklmnoprtvwz u:agksyz v:aceginu w:fs y:etu z:amw
"""
COUNTRIES = frozenset(group[0] + second for group in _COUNTRIES.split() for second in group[2:])
GENERIC = _names(
    """
    com org net edu gov mil int info biz name pro aero coop museum travel asia tel post cat jobs mobi
    academy agency app art berlin blog business center club cloud company consulting dev digital email engineering
    expert foundation global group gmbh health institute international legal life live london marketing media network
    news online paris partners press science services shop site social software solutions space store studio systems
    team tech technology today tokyo tools top university vip wiki work works world xyz zone
    """
)
ALL = COUNTRIES | GENERIC

# Those that are hardly ever the name of an attribute; all others (name, info, id, is, to, ...) also are.
UNAMBIGUOUS = _names(
    "com org net edu gov mil au br ca ch cn cz de dk es eu fi fr gr hk hu ie il jp kr lv nl nz pl ro ru se si sk tw ua"
    " uk za"
)
