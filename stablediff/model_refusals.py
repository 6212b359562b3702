"""What a model, a LoRA or this machine is refused for, in other languages: patterns of whole messages."""

_AGAIN = "скачайте её ещё раз"

MODEL_REFUSALS = {
    "ru": {
        # what is there
        r"(?P<name>.+): Stable Diffusion of its own size, U-Net of (?P<count>\d+) M parameters, .*": (
            "{name}: небольшая Stable Diffusion, U-Net на {count} млн параметров"
        ),
        r"(?P<name>.+): (?P<kind>.+), U-Net of (?P<count>\d+) M parameters, (?P<what>\w+), stored as (?P<low>\w+)": (
            "{name}: {kind}, U-Net на {count} млн параметров, {what}, файлы в {low}"
        ),
        r"CPU with (?P<count>\d+) threads?, (?P<low>\w+)(?P<what>.*)": "процессор, потоков: {count}, {low}",
        # what is not there
        r"there is no (model|LoRA) (?P<name>.+?): .*": "нет такой модели или LoRA: {name}. Проверьте название",
        r"there is no \w+ (?P<name>.+?): choose a \.safetensors file, .*": "нет файла {name}: проверьте название",
        r"the model's name is empty: .*": "название модели пусто",
        r"there is no user .+ here: .*": "такой папки здесь нет: проверьте путь",
        r"cannot look at (?P<name>.+)": "не удаётся посмотреть: {name}",
        r"(?P<path>.+) has no model_index\.json, .*": "{path}: нет model_index.json, это не целая модель",
        r"(?P<path>.+) holds a LoRA and no whole model: .*": "{path}: это LoRA, а не целая модель",
        r"(?P<path>.+) holds several models \((?P<names>.+)\): .*": (
            "{path}: здесь несколько моделей ({names}), назовите файл"
        ),
        r"(?P<path>.+) is not a checkpoint by its name: .*": (
            "{path}: по имени это не модель. Нужен файл .safetensors или папка в раскладке diffusers"
        ),
        # the hub
        r"the hub has no model (?P<name>.+) \(or it is private\): .*": (
            "на Hugging Face нет модели {name} (или она закрыта): проверьте название или войдите (hf auth login)"
        ),
        r"(?P<name>.+) asks its users to accept its terms: .*": (
            "{name}: автор просит принять условия. Сделайте это на странице модели, затем войдите (hf auth login)"
        ),
        r"(?P<name>.+) is not a diffusers folder\. .*": "{name}: это не папка diffusers, назовите один из её файлов",
        r"(?P<name>.+) has no safetensors weights in .+": "{name}: нет весов safetensors, выберите другую копию модели",
        r"(?P<name>.+) has no file (?P<file>.+?); it has .*": "{name}: нет файла {file}",
        r"(?P<file>.+) arrived damaged .*": "{file}: скачано с ошибкой и удалено, попробуйте ещё раз",
        r"(?P<name>.+) is not (on|whole on) this disk, and .*": (
            "{name}: на этом диске её нет целиком, а с Hugging Face нет связи. Подключитесь и попробуйте ещё раз"
        ),
        r"the disk is full \(.*\): .*": "диск заполнен: освободите место",
        # what is not whole
        r"(?P<path>.+) is not a whole safetensors file .*": "{path}: файл не цел, скачайте его ещё раз",
        r"cannot read (?P<name>.+) as plain tensors: .*": "{name} не читается: возьмите версию .safetensors",
        r"cannot read (?P<name>.+?)(:| \().*": "не читается: {name}. Скачайте модель ещё раз",
        r"cannot use (?P<path>.+?) \(.*": "файл не годится, исправьте или удалите его: {path}",
        r"(?P<path>.+) has no \.safetensors weights.*": "{path}: нет весов .safetensors, модель не полна, " + _AGAIN,
        r"(?P<path>.+) names files that are not beside it: .*": "{path}: рядом нет названных там файлов, " + _AGAIN,
        r"(?P<path>.+) is missing: the model's folder .*": "{path}: файла нет, модель не полна, " + _AGAIN,
        r"(?P<path>.+) is (not a plain file|larger than any such file|not a table of settings).*": (
            "{path}: с этим файлом что-то не так. Скачайте модель ещё раз"
        ),
        r"(?P<what>.+) (does not hold the model that it should|is not the model it should be): .*": (
            "{what}: внутри не та модель, которая должна быть. Возможно, файл повреждён: " + _AGAIN
        ),
        r"the (sizes|settings) (of|in) .+ do not fit together .*": "части модели не подходят друг к другу: " + _AGAIN,
        r"the tensors of this file do not fit together .*": "части файла не подходят друг к другу: " + _AGAIN,
        r"(?P<name>.+) holds .+ numbers, which are not weights: .*": "{name}: это не веса, " + _AGAIN,
        r"(?P<file>.+) holds no table of named tensors: .*": "{file}: это не модель Stable Diffusion",
        r"the tokenizer in .+ does not fit its text encoder: .*": "словарь модели не подходит к ней: " + _AGAIN,
        r"this (U-Net|autoencoder|text encoder) lacks .+": "в модели не хватает частей: " + _AGAIN,
        r"this U-Net has a single level, .*": "у этой U-Net всего один уровень: файл, возможно, повреждён",
        # what is another kind
        r"(?P<path>.+) is a Python pickle, .*": (
            "{path}: это pickle, он может выполнить код. Возьмите версию .safetensors"
        ),
        r"this file is not a whole Stable Diffusion checkpoint: .*": "в этом файле не целая модель Stable Diffusion",
        r"this file has no .+: it is a part of a model\. .*": "в этом файле лишь часть модели: возьмите полную",
        r"this model was trained in the EDM framework .*": (
            "модель обучена по схеме EDM (Playground 2.5, CosXL), она здесь не работает: выберите обычную SDXL"
        ),
        r"this is the SDXL refiner, .*": (
            "это SDXL refiner, он лишь доводит чужое начало: возьмите основную модель SDXL"
        ),
        r"this model is conditioned on more than text .*": (
            "этой модели мало одного текста: возьмите модель «текст → картинка»"
        ),
        r"(?P<path>.+) holds a .+, and only Stable Diffusion 1\.x, 2\.x and SDXL are supported\. .*": (
            "{path}: поддерживаются только Stable Diffusion 1.x, 2.x и SDXL"
        ),
        r"(?P<path>.+) lacks a text encoder .*": "{path}: нет текстовой части, возьмите полную модель",
        r"this (text encoder|U-Net|VAE|scheduler|model|.+) (has|goes|is made for) .*": (
            "эта модель — вариант Stable Diffusion, которого эта программа не знает: выберите другую"
        ),
        # tiny decoders
        r"(?P<file>.+) holds no tiny decoder: .*": "{file}: это не маленький декодер",
        r"(?P<file>.+) makes .+ channels of .+, .+ times the size, .*": "{file}: этот декодер от модели другого вида",
        # LoRA
        r"(?P<file>.+) is a whole model and no LoRA: .*": "{file}: это целая модель, а не LoRA",
        r"(?P<file>.+) is no LoRA \(.*": "{file}: это не LoRA",
        r"(?P<file>.+) is a .+ \(it has .+\), which is not computed here: .*": (
            "{file}: такой вид LoRA здесь не считается"
        ),
        r"(?P<file>.+): .+ is not finite: .*": "{file}: файл LoRA повреждён, скачайте его ещё раз",
        r"(?P<file>.+) has .+, for which this model has no layer: .*": "{file}: эта LoRA от модели другого вида",
        r"(?P<file>.+) does not end in \.safetensors, .*": "{file}: читаются только файлы .safetensors",
        r"(?P<path>.+) holds .+: name the file of the LoRA": "{path}: назовите файл LoRA",
        r"the LoRA's (?P<name>rank|alpha|scale) is (?P<value>.+?): choose (?P<range>.+)": (
            "LoRA, {name}: {value}. Выберите другое значение"
        ),
    }
}
