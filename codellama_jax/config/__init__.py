"""Every setting that gin can bind, as plain dataclasses. `gin_files` reads them; nothing reads a module global."""
