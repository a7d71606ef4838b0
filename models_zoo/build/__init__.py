"""Building the models zoo: `python -m models_zoo.build`.

```
models_zoo/<name>/model.toml     by hand: data, licence, use, and how the model is made
                  model.onnx     the model
                  figures.json   how good and how fast that very file is
                  README.md      the card, written from the three
models_zoo/README.md, runtime/matseg_runtime/zoo_index.json    written from all cards' models
```
"""
