from matseg_trainer.zoo.cli import main

if __name__ == "__main__":
    main(prog_name="python -m matseg_trainer.zoo")
