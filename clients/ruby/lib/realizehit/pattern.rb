# frozen_string_literal: true

require "digest/md5"
require "json"

require_relative "errors"

module Realizehit
  # A set of filters. Wherever a pattern is expected, a Hash of filters works too.
  #
  # Keys are Strings or Symbols; values are Strings, Symbols, Integers, finite Floats, true or false. In a subscription
  # the value "*" stands for any value, and the filter "*" => "*" for any further filters.
  #
  #   Realizehit::Pattern.new(kind: "news", channel: "CNN").text  # => "channel:CNN|kind:news"
  #   Realizehit::Pattern.new(kind: "news", channel: "CNN").id    # => "3bf1d979"
  class Pattern
    # The most filters that a pattern has.
    MAX_FILTERS = 16
    # The longest key, in bytes of its encoded text.
    MAX_KEY = 64
    # The longest value, in bytes of its encoded text.
    MAX_VALUE = 256
    # The longest canonical text, in bytes.
    MAX_CHANNEL = 1024

    INTEGERS = (-(2**63)..((2**64) - 1))
    private_constant :INTEGERS

    # @return [String] the canonical text, such as "channel:CNN|kind:news"
    attr_reader :text

    # @param filters [Hash]
    # @raise [BadPattern] if a filter breaks a rule; the message names it
    def initialize(filters)
      raise BadPattern, "a pattern is a Hash of filters, not a #{filters.class}" unless filters.is_a?(Hash)

      @filters = filters.transform_keys { |key| Pattern.key_text(key) }.freeze
      raise BadPattern, "two keys have the same text" if @filters.size < filters.size

      @text = Pattern.canonical(@filters).freeze
      @wildcard = @filters.each_value.any? { |value| ["*", :*].include?(value) }
    end

    # Returns the pattern itself, or makes one of a Hash.
    #
    # @raise [BadPattern]
    def self.of(pattern)
      pattern.is_a?(Pattern) ? pattern : new(pattern)
    end

    # @return [String] the pattern's label on the wire, 8 hexadecimal digits. Two patterns may have the same one
    def id
      Digest::MD5.hexdigest(@text)[0, 8]
    end

    # @return [Boolean] whether it stands for several patterns
    def wildcard?
      @wildcard
    end

    # @return [Hash{String => Object}] the filters as they were given
    def to_h
      @filters
    end

    # @return [String] the filters as JSON
    def to_json(*state)
      @filters.to_json(*state)
    end

    # @return [String] the canonical text
    alias to_s text

    # Two patterns are equal if their canonical texts are.
    def ==(other)
      other.is_a?(Pattern) && other.text == @text
    end
    alias eql? ==

    # Patterns that are equal have the same one.
    def hash
      @text.hash
    end

    class << self
      # Turns a canonical text into filters.
      #
      # @api private
      # @raise [ArgumentError] if it is not one
      def parse_channel(channel)
        channel.split("|", -1).to_h do |part|
          key, colon, value = part.partition(":")
          raise ArgumentError, "#{part.inspect} is not a filter" if key.empty? || colon.empty? || value.empty?

          [decode(key), decode(value)]
        end
      end

      # @api private
      def key_text(key)
        raise BadPattern, "the key #{key.inspect} is neither a String nor a Symbol" unless text?(key)

        utf8(key.to_s, key)
      end

      # @api private
      def canonical(filters)
        raise BadPattern, "a pattern needs at least one filter" if filters.empty?
        if filters.size > MAX_FILTERS
          raise BadPattern, "a pattern has at most #{MAX_FILTERS} filters, this one has #{filters.size}"
        end

        channel = filters.map { |key, value| encoded_filter(key, value) }.sort.map { |pair| pair.join(":") }.join("|")
        return channel if channel.bytesize <= MAX_CHANNEL

        raise BadPattern, "the pattern has #{channel.bytesize} encoded bytes, at most #{MAX_CHANNEL} are allowed"
      end

      private

      def encoded_filter(key, value)
        star = ["*", :*].include?(value)
        if key == "*"
          raise BadPattern, "the key * takes only the value *" unless star

          return ["*", "*"]
        end
        text = value_text(key, value)
        raise BadPattern, "the key or the value of #{key.inspect} is empty" if key.empty? || text.empty?

        encoded = star ? "*" : bounded(encode(text), MAX_VALUE, "the value of", key)
        [bounded(encode(key), MAX_KEY, "the key", key), encoded]
      end

      def bounded(encoded, most, what, key)
        return encoded if encoded.bytesize <= most

        raise BadPattern, "#{what} #{key.inspect} has #{encoded.bytesize} encoded bytes, at most #{most} are allowed"
      end

      def text?(object)
        object.is_a?(String) || object.is_a?(Symbol)
      end

      def value_text(key, value)
        case value
        when String, Symbol then utf8(value.to_s, key)
        when Integer then integer_text(key, value)
        when Float then float_text(key, value)
        when true, false then value.to_s
        else
          kind = value.nil? ? "nil" : "a #{value.class}"
          raise BadPattern, "the value of #{key.inspect} is #{kind}, not a text, a number or a boolean"
        end
      end

      def utf8(text, key)
        text = text.encode(Encoding::UTF_8)
        raise BadPattern, "the key or the value of #{key.inspect} is not UTF-8" unless text.valid_encoding?

        text
      rescue EncodingError
        raise BadPattern, "the key or the value of #{key.inspect} cannot be written in UTF-8"
      end

      def integer_text(key, value)
        return value.to_s if INTEGERS.cover?(value)

        float_text(key, value.bit_length > Float::MAX_EXP ? Float::INFINITY : value.to_f) # as readers of JSON take it
      end

      # Writes a number as ECMAScript's Number::toString does.
      def float_text(key, value)
        raise BadPattern, "the value of #{key.inspect} is not a finite number" unless value.finite?
        return "0" if value.zero?

        sign = value.negative? ? "-" : ""
        sign + place_point(*shortest(value.abs))
      end

      # Returns the shortest digits that stand for a Float, and where the point is: 0.digits times ten to that power.
      def shortest(value)
        mantissa, exponent = value.to_s.split("e")
        whole, fraction = mantissa.split(".")
        digits = (whole + fraction).sub(/\A0+/, "")
        point = whole.size + exponent.to_i - ((whole + fraction).size - digits.size)
        [digits.sub(/0+\z/, ""), point]
      end

      def place_point(digits, point)
        count = digits.size
        return digits.ljust(point, "0") if count <= point && point <= 21
        return digits.dup.insert(point, ".") if point.positive? && point <= 21
        return "0.#{'0' * -point}#{digits}" if point > -6 && point <= 0

        mantissa = count == 1 ? digits : digits.dup.insert(1, ".")
        format("%<mantissa>se%<exponent>+d", mantissa:, exponent: point - 1)
      end

      def encode(text)
        text.b.gsub(/[^0-9A-Za-z\-._~]/n) { |byte| format("%%%02X", byte.ord) }.force_encoding(Encoding::UTF_8)
      end

      def decode(text)
        raise ArgumentError, "#{text.inspect} has a malformed percent-encoding" if text.match?(/%(?![0-9A-Fa-f]{2})/)

        decoded = text.b.gsub(/%(..)/n) { Regexp.last_match(1).hex.chr }.force_encoding(Encoding::UTF_8)
        raise ArgumentError, "#{text.inspect} does not stand for UTF-8" unless decoded.valid_encoding?

        decoded.freeze
      end
    end
  end
end
