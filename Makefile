# The targets. `make help` lists them; the graph behind `figures` and `book` is in Snakefile.
SCALE = quick
SEED = 0
PROFILE = default
JOBS = $(if $(filter default,$(PROFILE)),2,20)
PORT = 8000
CASES = 2000

VENV = .venv/bin/python
COMPILE = $(VENV) -m uv pip compile -q --universal --fork-strategy fewest --python-version 3.11 --generate-hashes --no-header \
  $(if $(UPGRADE),--upgrade)
TARGETS = book figures record test fuzz mutants lint bench serve pdf lock clean help

# Whatever the locale.
export PYTHONUTF8 = 1

.DEFAULT_GOAL := help
.PHONY: $(TARGETS) environment checked named
.NOTPARALLEL:

# `exec` in every recipe: the process that works is then make's own child, and notices when make is gone.

help:
	@echo "make book     environment, every run, notebook and figure, and the HTML book in book/_build/html"
	@echo "make figures  the same without the book: results/SCALE/"
	@echo "make record   NAME=mlp-cifar10 one run at paper scale into results/paper/, resumed if it was stopped (RATE=0.01)"
	@echo "make test     the test suite (after make book it looks at the book in a browser too)"
	@echo "make fuzz     CASES=$(CASES) random losses against the library, other ones each time"
	@echo "make mutants  the library broken on purpose, one way after another: which claims notice (one to two hours)"
	@echo "make lint     ruff (rules and format), pyright on eoslib, and that no notebook carries outputs"
	@echo "make bench    time and memory of the derivatives and of a tracked step, as a table"
	@echo "make serve    the book at http://localhost:$(PORT)"
	@echo "make pdf      the book as one PDF (needs chromium)"
	@echo "make lock     resolve the dependencies again; UPGRADE=1 takes the newest versions, else today's are kept"
	@echo "make clean    remove what was computed (never results/paper, nor the environment)"
	@echo
	@echo "Variables: SCALE=quick|paper (now $(SCALE)), SEED (now $(SEED)), JOBS at a time (now $(JOBS)), PORT."
	@echo "make environment ACCELERATOR=cuda12 also installs what NVIDIA GPUs need (ACCELERATOR=none removes it)."
	@echo "PROFILE=slurm sends the jobs of figures and book to a SLURM cluster."
	@echo "The first target makes .venv from requirements.lock. Stop any target at any time; calling it again continues."

book figures: checked environment
	@exec $(VENV) workflow/make.py $@ --scale $(SCALE) --seed $(SEED) --jobs $(JOBS) --profile $(PROFILE)

record: checked named environment
	@exec $(VENV) -m selfstab.runs --scale paper --name "$(NAME)" --seed $(SEED) $(if $(RATE),--learning-rate "$(RATE)")

test: checked environment
	@exec $(VENV) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

fuzz: checked environment
	@exec env EOSLIB_FUZZ=$(CASES) $(VENV) -m pytest -n $(JOBS) --dist load tests/test_fuzz.py

mutants: checked environment
	@exec $(VENV) workflow/mutants.py --scale $(SCALE) --seed $(SEED) --jobs $(JOBS)

lint: environment
	@$(VENV) -m ruff check . && $(VENV) -m ruff format --check . && $(VENV) -m pyright \
	  && $(VENV) -m nbstripout --verify --keep-id notebooks/*.ipynb

bench: environment
	@exec $(VENV) benchmarks/run.py

serve: environment
	@test -f book/_build/html/index.html || { echo "There is no book yet: call make book first." >&2; exit 1; }
	@exec $(VENV) workflow/serve.py book/_build/html $(PORT)

pdf: checked book
	@exec $(VENV) workflow/pdf.py

# NVIDIA's wheels have a lock of their own: what installs requirements.lock as a whole (conda, Binder) shall not fetch them.
lock: environment
	@$(COMPILE) pyproject.toml --all-extras --no-emit-package eoslib --output-file requirements.lock
	@exec $(COMPILE) --group cuda12 --constraint requirements.lock --output-file requirements-cuda12.lock

clean:
	rm -rf results/quick results/test results/checkpoints book/_build book/chapters book/_generated book/_assets/vendor
	rm -rf .snakemake .cache .pytest_cache .ruff_cache .hypothesis .benchmarks

checked:
	@case "$(SCALE)" in quick|paper|test) ;; *) \
	  echo "SCALE must be quick or paper (or test, the still smaller scale of the tests), got '$(SCALE)'." >&2; exit 1;; esac
	@case "$(SEED)" in ''|*[!0-9]*) echo "SEED must be a whole number, got '$(SEED)'." >&2; exit 1;; esac
	@test -f "workflow/profiles/$(PROFILE)/config.yaml" || { \
	  echo "PROFILE must be default or slurm (a folder of workflow/profiles), got '$(PROFILE)'." >&2; exit 1; }
	@case "$(JOBS)" in ''|0|*[!0-9]*) echo "JOBS must be a whole number of at least 1, got '$(JOBS)'." >&2; exit 1;; esac

named:
	@test -n "$(NAME)" || { echo "make record needs the NAME of a setting, as in make record NAME=mlp-cifar10." >&2; exit 1; }

environment:
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	  if "$$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; \
	  then exec "$$python" workflow/environment.py $(ACCELERATOR); fi; done; \
	echo "eoslib needs Python 3.11, 3.12 or 3.13 with its venv module, and found none. Install one" >&2; \
	echo "(Debian, Ubuntu: apt install python3 python3-venv), or name one: make book PYTHON=/path/to/python3.12" >&2; exit 1
