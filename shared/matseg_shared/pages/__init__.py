"""Reports as single HTML files: what the pages of a training, an evaluation and a run have in common.

A page carries everything it shows: style, scripts, pictures (as data URIs), numbers (as JSON) and the charting library.
It opens from a file, asks the network for nothing, and says so to the browser in its content security policy.

```
 facts on disk ──> a builder (matseg_runtime.page, matseg_trainer.pages) ──> Chart, pictures ──> page: one .html
```
"""
