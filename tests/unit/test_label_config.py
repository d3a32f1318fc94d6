import pytest

from underpaint.labelstudio.label_config import Label, LabelConfigError, Options, parse

IMAGE = '<Image name="image" value="$image"/>'
BRUSH = '<BrushLabels name="tag" toName="image"><Label value="Sky"/></BrushLabels>'


def test_reads_controls_labels_and_options() -> None:
    config = parse(
        """<View>
          <Header value="Paint the sky"/>
          <View style="display: flex"><Image name="left" value="$front"/><Image name="right" value="$back"/></View>
          <BrushLabels name="tag" toName="left" model_score_threshold="0.5" model_min_area="1.5">
            <View><Label value="Sky" background="#8ecae6" predicted_values="sky, clouds,"/></View>
            <Label value="Bäume" alias="tree"/>
          </BrushLabels>
          <KeyPointLabels name="kp" toName="left" smart="true"><Label value="Star"/></KeyPointLabels>
          <PolygonLabels name="shape" toName="right" model_polygon_tolerance="0" model_polygon_points="50">
            <Label value="Boat"/><Label value="Sky"/>
          </PolygonLabels>
          <EllipseLabels name="round" toName="right"><Label value="Sun"/></EllipseLabels>
        </View>"""
    )
    brush, polygon, ellipse = config.controls
    assert (brush.type, brush.name, brush.to_name, brush.image_key) == ("BrushLabels", "tag", "left", "front")
    assert brush.labels == (Label("Sky", ("sky", "clouds")), Label("tree", shown="Bäume"))
    assert config.labels == (*brush.labels, Label("Boat"), Label("Sun"))
    assert brush.options == Options(score_threshold=0.5, min_area=1.5)
    assert polygon.image_key == "back"
    assert polygon.options == Options(polygon_tolerance=0, polygon_points=50)
    assert [control.predicted for control in (brush, polygon, ellipse)] == [True, True, False]
    assert config.class_names == ("Sky", "tree", "Boat", "Sun")
    assert config.image_keys == ("front", "back")


def test_a_smart_tool_whose_labels_another_control_draws_is_there_to_ask_with() -> None:
    config = parse(
        """<View>
          <Image name="image" value="$image"/><Image name="back" value="$back"/>
          <RectangleLabels name="ask" toName="image" smart="true"><Label value="Sky"/></RectangleLabels>
          <PolygonLabels name="plain" toName="image"><Label value="Sky"/></PolygonLabels>
          <PolygonLabels name="more" toName="image" smart="true">
            <Label value="Sky"/><Label value="Boat"/>
          </PolygonLabels>
          <RectangleLabels name="elsewhere" toName="back" smart="true"><Label value="Sky"/></RectangleLabels>
          <BrushLabels name="brush" toName="image" smart="true">
            <Label value="Sky"/><Label value="Tree"/>
          </BrushLabels>
        </View>"""
    )
    assert [control.name for control in config.controls if control.predicted] == ["plain", "more", "elsewhere", "brush"]
    assert [control.name for control in config.controls if control.asks] == ["ask"]


def view(*tags: str) -> str:
    return f"<View>{''.join(tags)}</View>"


MANY = "".join(f'<Label value="{number}"/>' for number in range(256))


@pytest.mark.parametrize(
    ("xml", "remedy"),
    [
        ("<View>", "not well-formed"),
        ("", "not well-formed"),
        (view(BRUSH), "add <Image"),
        (view(IMAGE), "add one of <BrushLabels>, <PolygonLabels>, <RectangleLabels>"),
        (view(IMAGE, BRUSH.replace("Brush", "Ellipse")), "add one of <BrushLabels>"),
        (view(IMAGE, BRUSH.replace("toName=", "to=")), 'with toName set to one of: "image"'),
        (view(IMAGE, BRUSH.replace('name="tag" ', "")), "has no name"),
        (view(IMAGE, BRUSH.replace('<Label value="Sky"/>', "")), "put <Label"),
        (view(IMAGE, BRUSH.replace('<Label value="Sky"/>', MANY)), "256 labels; keep to 255"),
        (view(IMAGE, BRUSH.replace("value=", "hotkey=")), "<Label> without a value"),
        (view(IMAGE.replace("$image", "$pages[0].url"), BRUSH), "$pages[0].url"),
        (view(IMAGE.replace("$image", "$pages{0}"), BRUSH), "one plain key"),
        (view(IMAGE.replace("$image", "$front $back"), BRUSH), "one plain key"),
        (view(IMAGE.replace("$image", "$"), BRUSH), "one plain key"),
        (view(IMAGE.replace("value", "valueList"), BRUSH), "one plain key"),
        ('<!DOCTYPE v [<!ENTITY a "b">]>' + view(IMAGE, BRUSH), "remove the declaration"),
    ],
)
def test_errors_name_the_remedy(xml: str, remedy: str) -> None:
    with pytest.raises(LabelConfigError) as caught:
        parse(xml)
    assert remedy in str(caught.value)


@pytest.mark.parametrize("key", ["image-url", "image.url", "image_2", "Front side", "größe"])
def test_an_image_may_have_any_plain_key(key: str) -> None:
    assert parse(view(IMAGE.replace("$image", f"${key}"), BRUSH)).image_keys == (key,)


def test_controls_of_other_things_than_images_are_ignored() -> None:
    video = '<Video name="film" value="$film"/>'
    on_video = '<RectangleLabels name="box" toName="film"><Label value="Horse"/></RectangleLabels>'
    assert parse(view(IMAGE, video, on_video, BRUSH)) == parse(view(IMAGE, BRUSH))
    with pytest.raises(LabelConfigError, match='with toName set to one of: "image"'):
        parse(view(IMAGE, video, on_video))


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("model_score_threshold", "high"),
        ("model_score_threshold", "1.01"),
        ("model_min_area", "-1"),
        ("model_polygon_tolerance", "nan"),
        ("model_polygon_points", "3"),
    ],
)
def test_options_out_of_range_are_named(attribute: str, value: str) -> None:
    option = f'{attribute}="{value}"'
    with pytest.raises(LabelConfigError, match=f'<BrushLabels name="tag"> has {option}; set it to a number from'):
        parse(view(IMAGE, BRUSH.replace("toName", f"{option} toName")))
