"""What of the walk (prepare, train, evaluate, export, run) is done in a workspace, and what to type next.

Read from what lies on disk; works without torch, and quickly: weights, images and graphs are not loaded.

```
state ───> what there is, as `matseg --json` prints it
 ├─ datasets, versions, models, runs ──> survey ──> next_step
 └─ table ──> terminal
```
"""
