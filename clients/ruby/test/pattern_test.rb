# frozen_string_literal: true

require_relative "helper"

class PatternTest < Minitest::Test
  VECTORS = File.expand_path("../../../tests/vectors.json", __dir__)

  def vectors
    skip "the test vectors are in the repository, not in the package" unless File.exist?(VECTORS)
    JSON.parse(File.read(VECTORS))
  end

  def test_valid_vectors
    rows = vectors.values_at("valid", "subscription_only", "wildcards").flatten
    refute_empty rows
    rows.each do |row|
      pattern = Realizehit::Pattern.new(row["in"])
      assert_equal [row["channel"], row["id"]], [pattern.text, pattern.id]
    end
  end

  def test_invalid_vectors
    vectors["invalid"].each do |row|
      error = assert_raises(Realizehit::BadPattern, row["why"]) { Realizehit::Pattern.new(row["in"]) }
      assert_equal "bad-pattern", error.code
    end
  end

  def test_channels_of_wildcards_are_read_back
    vectors["wildcards"].flat_map { |row| row["publications"] }.each do |row|
      filters = Realizehit::Pattern.parse_channel(row["channel"])
      assert_equal row["channel"], Realizehit::Pattern.new(filters).text
    end
  end

  def test_values_of_ruby
    {
      { kind: :news } => "kind:news",
      { "a" => 2**64 } => "a:18446744073709552000",
      { "a" => -(2**63) } => "a:-9223372036854775808",
      { "a" => -0.0 } => "a:0",
      { "a" => -1.5e300 } => "a:-1.5e%2B300",
      { "a" => 1e21 } => "a:1e%2B21",
      { "a" => 1.23e20 } => "a:123000000000000000000",
      { "a" => "é".encode("ISO-8859-1") } => "a:%C3%A9"
    }.each { |filters, text| assert_equal text, Realizehit::Pattern.new(filters).text }
  end

  def test_values_that_are_refused
    [
      "kind", [], nil, {}, { a: nil }, { a: 1r }, { a: Float::NAN }, { a: 10**400 }, { a: "\xff" }, { 1 => "a" },
      { a: "\xff".b }, { a: 1, "a" => 2 }
    ].each { |filters| assert_raises(Realizehit::BadPattern, filters.inspect) { Realizehit::Pattern.new(filters) } }
  end

  def test_the_message_names_the_filter_and_the_bound
    error = assert_raises(Realizehit::BadPattern) { Realizehit::Pattern.new(kind: "é" * 50) }
    assert_includes error.message, '"kind" has 300 encoded bytes, at most 256'
  end

  def test_floats_are_read_back
    random = Random.new(7)
    2000.times do
      number = [random.bytes(8)].first.unpack1("D")
      next unless number.finite?

      _, text = Realizehit::Pattern.new(a: number).text.split(":")
      assert_equal number, text.sub("%2B", "+").to_f
    end
  end

  def test_equality
    one = Realizehit::Pattern.new(a: 1, b: 2)
    assert_equal one, Realizehit::Pattern.new("b" => "2", "a" => 1.0)
    assert_equal one.hash, Realizehit::Pattern.new("b" => "2", "a" => 1.0).hash
    refute_equal one, Realizehit::Pattern.new(a: 1)
  end

  def test_wildcards
    assert_predicate Realizehit::Pattern.new(a: "*"), :wildcard?
    refute_predicate Realizehit::Pattern.new(a: "**"), :wildcard?
  end
end
