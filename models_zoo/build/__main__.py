from models_zoo.build.cli import main

if __name__ == "__main__":
    main(prog_name="python -m models_zoo.build")
