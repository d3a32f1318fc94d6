"""Every knob of Underpaint, in one place. Each is read from the environment with the prefix ``UNDERPAINT_``."""

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class Settings(BaseSettings):
    """Settings of the backend and the workers; both read the same environment."""

    model_config = SettingsConfigDict(env_prefix="UNDERPAINT_", populate_by_name=True)

    store: str = Field("store", description="Where checkpoints and champions live: a folder or any fsspec URL.")
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        validation_alias=AliasChoices("UNDERPAINT_REDIS_URL", "REDIS_URL"),
        description="Redis for signals and the RQ queue; REDIS_URL is read where this is not set.",
    )
    queue: str = Field("underpaint", description="Name of the RQ queue.")

    label_studio_url: str = Field("", description="Base URL of Label Studio, sub-path included.")
    label_studio_token: str = Field("", description="Legacy token or personal access token of Label Studio.")
    basic_auth_user: str = Field("", description="User that Label Studio must send; empty switches the check off.")
    basic_auth_password: str = Field("", description="Password that goes with basic_auth_user.")

    allowed_hosts: Annotated[list[str], NoDecode] = Field(
        ["*"],
        description="Hosts (host or host:port, * as wildcard, separated by commas) that images may come from. "
        "`*` covers public addresses only; loopback and private ones must be named.",
    )
    fetch_timeout: float = Field(20.0, gt=0, description="Seconds that fetching one image may take in all.")
    fetch_concurrency: int = Field(8, ge=1, description="Images fetched at the same time.")
    max_image_bytes: int = Field(100_000_000, gt=0, description="Largest image file, in bytes.")
    max_image_pixels: int = Field(200_000_000, gt=0, description="Largest image, in pixels after decoding.")
    predict_deadline: float = Field(
        90.0,
        gt=0,
        description="Seconds one /predict may take, for Label Studio hangs up after 100; a worker brings what wasn't "
        "reached.",
    )
    batch_size: int = Field(16, ge=1, description="Most images in one forward pass, on a GPU; a CPU takes one a pass.")
    batch_wait: float = Field(
        5.0,
        ge=0,
        description="Milliseconds that a forward pass with room left waits for images that are about to be ready.",
    )
    cache: str = Field(
        "",
        description="Folder that keeps predictions, so that none is computed twice; without one, `cache` in the store, "
        "or in the user's cache where the store is no folder.",
    )
    cache_bytes: int = Field(1_000_000_000, ge=0, description="Most bytes of predictions kept; 0 keeps none.")
    max_request_bytes: int = Field(256_000_000, gt=0, description="Largest request body, in bytes.")
    max_loaded: int = Field(4, ge=1, description="Champions kept in memory; the least recently used leaves first.")
    poll_seconds: float = Field(5.0, gt=0, description="Seconds between looks at the store for promotions.")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    runtime: str = Field("auto", description="What runs the net; `auto` takes what measures fastest on the device.")
    base: str = Field(
        "shipped",
        description="Segmenter that serves a project until its first training: `shipped` in the package, `none`, or a "
        "folder that holds another's `model.safetensors` and `card.json`.",
    )

    retrain_after_labels: int = Field(5, ge=1, description="New accepted labels that start a retrain.")
    retrain_after_minutes: float = Field(
        60.0, ge=0, description="Minutes after which fewer labels start one too, however busy people are."
    )
    retrain_quiet_seconds: float = Field(30.0, ge=0, description="Seconds without a new label before a retrain.")
    reconcile_minutes: float = Field(
        5.0, gt=0, description="Minutes between looks at Label Studio for labels that no webhook told of."
    )
    ground_truth_only: bool = Field(False, description="Learn only from annotations marked as ground truth.")
    unlabelled_is_background: bool = Field(
        False, description="Pixels without a label become a class `background` instead of being ignored."
    )
    keep_checkpoints: int = Field(
        20,
        ge=0,
        description="Checkpoints that stay of those that a project served, the latest ones: `underpaint rollback` goes "
        "back to these. 0 keeps all.",
    )
    keep_days: float = Field(
        7.0,
        ge=1,
        description="Days that any other checkpoint stays, so that a challenger that was refused can be promoted.",
    )
    train_strategy: Literal["auto", "final", "extra", "head", "stage4", "all"] = Field(
        "auto", description="How much of the net a retrain changes; `auto` chooses by the labels."
    )
    train_epochs: int = Field(70, ge=1, description="Passes over the training paintings in one retrain.")
    train_min_steps: int = Field(250, ge=0, description="Fewest steps of one retrain, however few the paintings are.")
    train_minutes: float = Field(20.0, gt=0, description="Longest time one retrain may train.")
    train_folds: int = Field(
        0,
        ge=0,
        description="Parts of the paintings that are left out in turn to find how long to train, where there are fewer "
        "than five validation paintings to stop by; each costs as much time as the training. 0: none.",
    )
    train_processes: int = Field(
        0,
        ge=0,
        description="Processes of one training, each on a GPU of its own, or all on the CPU where there is none; "
        "0 for one on each GPU.",
    )
    job_nice: int = Field(
        10,
        ge=0,
        le=19,
        description="Niceness of workers and all their jobs, so that whoever waits for /predict goes first.",
    )
    train_threads: int = Field(0, ge=0, description="CPU threads of a retrain; 0: as many as there are cores.")
    train_gpu_memory: float = Field(
        0.8, gt=0, le=1, description="Share of a GPU's memory that a retrain may take; the rest is left to predictions."
    )
    gate_class_margin: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Fall of one class's IoU on the validation paintings beyond which a challenger is refused.",
    )
    tag_contradicted_labels: bool = Field(
        False,
        description="Show tasks whose accepted labels a retrain contradicts in a tab of Label Studio's data manager.",
    )
    image_size: int = Field(288, ge=64, description="Longer side, in pixels, at which the segmenter sees a painting.")
    encoder: str = Field(
        "tu-tf_efficientnet_lite0",
        description="Encoder of new segmenters, by smp's name; ImageNet weights of lite0, lite1 and lite2 come along.",
    )
    architecture: str = Field(
        "Hypercolumn", description="Architecture of new segmenters: ours, or one of smp's by name."
    )
    allow_noncommercial: bool = Field(
        False, description="Allow encoders whose weights are non-commercial, or whose terms nobody states."
    )

    @property
    def label_studio(self) -> tuple[str, str] | None:
        """URL and token of Label Studio, where both are set."""
        pair = self.label_studio_url, self.label_studio_token
        return pair if all(pair) else None

    @property
    def cache_folder(self) -> Path:
        """Where predictions are kept."""
        if self.cache:
            return Path(self.cache)
        return Path.home() / ".cache" / "underpaint" if "://" in self.store else Path(self.store) / "cache"

    @property
    def retrain_timeout(self) -> float:
        """Seconds after which RQ gives a retrain up: half an hour beyond its training time for all the rest."""
        return self.train_minutes * 60 + 1800

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: str | list[str]) -> list[str]:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


@lru_cache
def get_settings() -> Settings:
    """The settings of this process, read once from the environment."""
    return Settings()
