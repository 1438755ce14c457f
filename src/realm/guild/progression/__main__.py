"""`python3 -m realm.guild.progression` prints `docs/PROGRESSION.md`."""

from realm.guild.progression.document import document

if __name__ == "__main__":
    print(document(), end="")
