"""Mutants: one small change of the package at a time, which a test should notice.

    pip install pytest-cov
    pytest -q --cov timm_ofa --cov-context test tests
    python tests/bench/mutants.py --coverage .coverage --number 300 --out tests/bench/results/mutants.jsonl

The changes are drawn from all operators, numbers, conditions and calls of the package, or of `--rooms`. The tests that
run the changed line are run, those of its own package first, until one fails; `.coverage` says which they are. They run
in a copy of the checkout. The rows are kept as they come, and the same command goes on. A mutant stays `alive` until
somebody writes the test, or finds that it is equivalent.
"""
from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from coverage import CoverageData

ROOT = Path(__file__).resolve().parents[2]
OPERATORS = {
    ast.Lt: ('<', '<='), ast.LtE: ('<=', '<'), ast.Gt: ('>', '>='), ast.GtE: ('>=', '>'), ast.Eq: ('==', '!='),
    ast.NotEq: ('!=', '=='), ast.Is: ('is', 'is not'), ast.IsNot: ('is not', 'is'), ast.In: ('in', 'not in'),
    ast.NotIn: ('not in', 'in'), ast.Add: ('+', '-'), ast.Sub: ('-', '+'), ast.Mult: ('*', '/'), ast.Div: ('/', '*'),
    ast.FloorDiv: ('//', '*'), ast.Mod: ('%', '//'), ast.Pow: ('**', '*'),
    ast.And: ('and', 'or'), ast.Or: ('or', 'and')}
NAMES = {'min': 'max', 'max': 'min', 'any': 'all', 'all': 'any'}
QUIET = ('say', 'print', 'debug', 'info', 'warning')  # calls whose text is for people


class Mutant(NamedTuple):
    path: str
    line: int
    begin: int  # place in the bytes of the file
    end: int
    before: str
    after: str

    @property
    def key(self) -> str:
        return f'{self.path}:{self.line} {self.begin} {self.after}'


# ---- the mutants of a file -------------------------------------------------------------------------------------------


def mutants_of(path: str) -> Iterator[Mutant]:
    source = (ROOT / path).read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def place(node: ast.AST, end: bool = False) -> int:
        return starts[node.end_lineno - 1] + node.end_col_offset if end else starts[node.lineno - 1] + node.col_offset

    def whole(node: ast.AST, after: str) -> Mutant:
        begin, end = place(node), place(node, end=True)
        return Mutant(path, node.lineno, begin, end, source[begin:end].decode(), after)

    def between(left: ast.AST, right: ast.AST, before: str, after: str) -> Iterator[Mutant]:
        begin = place(left, end=True)
        found = re.search(rf'(?<!\w){re.escape(before)}(?!\w)', source[begin:place(right)].decode())
        if found:
            line = source[:begin + found.start()].count(b'\n') + 1
            yield Mutant(path, line, begin + found.start(), begin + found.end(), before, after)

    for node in changeable(ast.parse(source)):
        match node:
            case (ast.Compare(left=left, ops=[op], comparators=[right]) | ast.BinOp(left=left, op=op, right=right)
                  | ast.BoolOp(op=op, values=[left, right, *_])) if type(op) in OPERATORS:
                yield from between(left, right, *OPERATORS[type(op)])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                yield whole(node, source[place(operand):place(operand, end=True)].decode())
            case ast.Constant(value=bool(value)):
                yield whole(node, str(not value))
            case ast.Constant(value=int() | float() as value):
                yield whole(node, repr(value + 1 if isinstance(value, int) else 2 * value + (value == 0)))
            case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
                yield whole(test, f'(not ({source[place(test):place(test, end=True)].decode()}))')
            case ast.Expr(value=ast.Call()):
                yield whole(node, 'pass')
            case ast.Name(id=name) if name in NAMES:
                yield whole(node, NAMES[name])


def changeable(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes whose change changes what the package does: no annotations, texts, refusals, imports."""
    if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Assert)):
        return
    if isinstance(node, ast.Call) and getattr(node.func, 'attr', getattr(node.func, 'id', '')) in QUIET:
        return
    if isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.dump(node.test):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name not in ('annotation', 'returns', 'decorator_list'):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from changeable(child)


# ---- their tests -----------------------------------------------------------------------------------------------------


def tests_of(mutant: Mutant, data: CoverageData) -> list[str]:
    """The tests that run the line, or, where none does, the file: its package's first, those named like it before.

    A file that only other processes run, or copies of it, has the tests of its package.
    """
    own = f'tests/{mutant.path.split("/")[1]}/'
    measured = next((path for path in data.measured_files() if path.endswith(f'/{mutant.path}')), None)
    if measured is None:
        return [own]
    by_line = data.contexts_by_lineno(measured)
    names = tests_in(by_line.get(mutant.line, [])) or tests_in([one for found in by_line.values() for one in found])
    mixed = sorted(names)
    random.Random(mutant.key).shuffle(mixed)  # so that tests of all kinds run before time is up
    return sorted(mixed, key=lambda name: (not name.startswith(own), Path(mutant.path).stem not in name))


def tests_in(contexts: list[str]) -> set[str]:
    return {context.rpartition('|')[0] for context in contexts if context}


# ---- the runs --------------------------------------------------------------------------------------------------------


class Watch:
    """Remembers the first failure, and stops after so many seconds."""

    def __init__(self, limit_s: float) -> None:
        self.until_s, self.failed, self.passed = time.process_time() + limit_s, None, 0

    def pytest_runtest_logreport(self, report) -> None:
        self.pytest_collectreport(report)
        self.passed += report.when == 'call' and report.passed

    def pytest_collectreport(self, report) -> None:
        if report.failed:
            self.failed = self.failed or report.nodeid

    def pytest_runtest_teardown(self, item) -> None:
        if time.process_time() > self.until_s:
            item.session.shouldstop = 'time is up'


def run_tests(copy: Path, tests: list[str], limit_s: float, answer: Path) -> None:
    """In a forked process: run the tests in the copy, and write what came of them."""
    import pytest

    os.setsid()
    os.chdir(copy)
    sys.path[:0] = [str(copy)]
    os.environ.update(PYTHONPATH=str(copy), PYTHONDONTWRITEBYTECODE='1')
    sys.dont_write_bytecode = True
    with open(copy.parent / 'said.txt', 'w') as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    watch = Watch(limit_s)
    early = 'ignore::pytest.PytestAssertRewriteWarning'  # some of its plugins are imported here before
    status = pytest.main(['-x', '-q', '-p', 'no:cacheprovider', '-W', early, *tests], plugins=[watch])
    if status in (pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR):  # where conftest.py cannot be imported
        watch.failed = watch.failed or 'the tests do not start'
    answer.write_text(json.dumps([watch.failed, watch.passed]))


def judge(mutant: Mutant, copy: Path, tests: list[str], limit_s: float) -> dict:
    """Change the file in the copy, run the tests, change it back."""
    began, file, answer = time.monotonic(), copy / mutant.path, copy / 'answer.json'
    source = file.read_bytes()
    answer.unlink(missing_ok=True)
    file.write_bytes(source[:mutant.begin] + mutant.after.encode() + source[mutant.end:])
    pid = os.fork()
    if not pid:
        try:
            run_tests(copy, tests, limit_s, answer)
        finally:
            os._exit(0)
    while not os.waitpid(pid, os.WNOHANG)[0]:
        time.sleep(0.1)
        if time.monotonic() - began > 6 * limit_s:
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, 9)
    file.write_bytes(source)
    failed, passed = json.loads(answer.read_text()) if answer.exists() else ['no end, or the process died', 0]
    return dict(path=mutant.path, line=mutant.line, key=mutant.key, before=mutant.before, after=mutant.after,
                outcome='killed' if failed else 'alive' if tests else 'no test', by=failed, passed=passed,
                tests=len(tests), seconds=round(time.monotonic() - began, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--coverage', default='.coverage', help='data of pytest --cov --cov-context test')
    parser.add_argument('--rooms', nargs='+', default=['timm_ofa'], help='folders or files of the package')
    parser.add_argument('--number', type=int, default=300)
    parser.add_argument('--limit-s', type=float, default=60, help='processor seconds, then it is alive')
    parser.add_argument('--again', choices=['alive', 'no test'], help='run only those that had this outcome, once more')
    parser.add_argument('--share', default='0/1', help='I/N: every Nth mutant, for N processes side by side')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args()
    paths = sorted({str(path.relative_to(ROOT)) for room in args.rooms
                    for path in ([ROOT / room] if room.endswith('.py') else (ROOT / room).rglob('*.py'))})
    found = [mutant for path in paths for mutant in mutants_of(path)]
    drawn = random.Random(args.seed).sample(found, min(args.number, len(found)))
    rows = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    last = {row['key']: row['outcome'] for row in rows}
    number, of = map(int, args.share.split('/'))
    todo = [mutant for mutant in drawn[number::of] if last.get(mutant.key) == args.again]
    print(f'{len(found)} mutants of {len(paths)} files, {len(drawn)} drawn with seed {args.seed}, {len(todo)} to run')
    run_all(todo, args)


def run_all(todo: list[Mutant], args: argparse.Namespace) -> None:
    import pytest  # noqa: F401  the forked processes begin with these
    import timm  # noqa: F401
    import torch
    from coverage import CoverageData  # comes with pytest-cov

    torch.set_num_threads(1)
    data = CoverageData(args.coverage)
    data.read()
    counts: Counter = Counter()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / 'main'
        subprocess.run(['git', 'clone', '-q', str(ROOT), str(copy)], check=True)
        for changed in subprocess.run(['git', 'diff', '--name-only', 'HEAD'], cwd=ROOT, check=True, text=True,
                                      capture_output=True).stdout.split():
            shutil.copy(ROOT / changed, copy / changed)
        if (ROOT.parent / 'shared').exists():
            (copy.parent / 'shared').symlink_to((ROOT.parent / 'shared').resolve())
        for mutant in todo:
            row = judge(mutant, copy, tests_of(mutant, data), args.limit_s)
            with args.out.open('a') as file:
                file.write(json.dumps(row) + '\n')
            counts[row['outcome']] += 1
            print(f'{row["outcome"]:8} {row["seconds"]:5.1f} s {row["path"]}:{row["line"]} {row["before"][:50]!r} -> '
                  f'{row["after"][:50]!r} {row["by"] or ""}', flush=True)
    print(', '.join(f'{number} {outcome}' for outcome, number in counts.items()))


if __name__ == '__main__':
    main()
