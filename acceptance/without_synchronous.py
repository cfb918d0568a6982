"""Takes the synchronous scenarios out of a copy of basic_replication.feature.

They decide which replica wins the failover which follows them; so postgres-1 is away in that one instead.
"""
import re
import sys

SYNCHRONOUS_SCENARIOS = ("check restart of sync replica", "check stuck sync replica", "check multi sync replication")
FAILOVER = "check the basic failover in synchronous mode"


def without_synchronous(text):
    head, *scenarios = re.split(r"(?m)^(?=  (?:@|Scenario:))", text)
    scenarios = [s for s in scenarios if not any("Scenario: " + name in s for name in SYNCHRONOUS_SCENARIOS)]
    return head + "".join(map(asynchronous, scenarios))


def asynchronous(scenario):
    scenario = re.sub(r'(?m)^.*"sync" key in DCS.*\n', "", scenario)
    scenario = re.sub(r', "synchronous_mode": true|"synchronous_mode": null, ', "", scenario)
    if FAILOVER in scenario:
        scenario = scenario.replace("Given I run patronictl.py pause", "Given I shut down postgres-1\n    And I run patronictl.py pause", 1)
        scenario = scenario.replace("When I add the table bar", "When I start postgres-1\n    And I add the table bar", 1)
    return scenario


if __name__ == "__main__":
    path = sys.argv[1]
    with open(path) as file:
        original = file.read()
    changed = without_synchronous(original)
    assert changed.count("Scenario:") == original.count("Scenario:") - len(SYNCHRONOUS_SCENARIOS), "the feature has changed"
    assert "I start postgres-1\n    And I add the table bar" in changed, "the feature has changed"
    with open(path, "w") as file:
        file.write(changed)
