"""The chat templates of exports: the two dialogue formats of Code Llama - Instruct in the language of transformers.

A template renders text, which transformers then tokenizes; the tests compare the ids with those that training uses
(codellama_jax/chat.py). The implicit space that the tokenizer adds after a special token is the one that each format
has there.
"""

_RAISE_ROLES = "{{ raise_exception('an optional system message, then user and assistant in turn') }}"

# Each turn is <s> "[INST] user [/INST] answer " </s>. The system text is part of the first user message.
_INST = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for message in messages %}{% for tag in ['[INST]', '[/INST]', '<<SYS>>', '<</SYS>>'] %}"
    "{% if tag in message['content'] %}{{ raise_exception('a message contains the reserved tag ' + tag) }}{% endif %}"
    "{% endfor %}{% endfor %}"
    "{% for message in turns %}"
    "{% if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') %}" + _RAISE_ROLES + "{% endif %}"
    "{% if message['role'] == 'user' %}"
    "{% set content = (system if loop.first else '') + message['content'] %}"
    "{{ bos_token + '[INST] ' + content | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)

# <s>, then each message as " Source: role" "\n\n content" <step>; the answer to generate names its destination.
_SOURCE = (
    "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}"
    "{% else %}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}"
    "{% if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') %}" + _RAISE_ROLES + "{% endif %}"
    "{% endfor %}"
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ 'Source: ' + message['role'] + '\n\n ' + message['content'] | trim + '<step>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Source: assistant\nDestination: user\n\n ' }}{% endif %}"
)

TEMPLATES = {"inst": _INST, "source": _SOURCE}  # by the value of Chat.format
