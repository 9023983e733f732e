"""Ask for known vulnerabilities of the pinned versions: ``python tests/distribution/audit.py``, with pip-audit there.

Ends with 0 when there are none, 1 when there are some, and 2 when the advisory service did not answer for every
package: that is no pass, only no answer.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"


def main() -> int:
    command = [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "--format", "json"]
    command += ["--no-deps", "--disable-pip", "--requirement", str(CONSTRAINTS)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(result.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError):
        print(result.stderr[-2000:], file=sys.stderr)
        print("NOT AUDITED: the advisory service gave no answer", file=sys.stderr)
        return 2
    vulnerable = [package for package in packages if package.get("vulns")]
    for package in vulnerable:
        for each in package["vulns"]:
            fixed = ", ".join(each["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {each['id']}, fixed in {fixed}")
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if vulnerable:
        return 1
    if skipped or not packages:
        print(
            f"NOT AUDITED: the advisory service cannot be reached, or does not know {len(skipped)} of "
            f"{len(packages)} packages, {', '.join(skipped[:5])} among them",
            file=sys.stderr,
        )
        return 2
    print(f"{len(packages)} packages, no known vulnerability")
    return 0


if __name__ == "__main__":
    sys.exit(main())
