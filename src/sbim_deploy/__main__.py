"""``python -m sbim_deploy``, where the program is not on the PATH."""

from sbim_deploy.cli.app import main

if __name__ == "__main__":
    main()
